"""A checkpoint: a training written down between two steps, so that it goes on bit for bit.

One safetensors file, its numbers and history as JSON in the file's header. Nothing in it can run
code.
"""

import json
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from data_schemas.errors import TrainingError
from pipeline.train.loop import Training
from pipeline.train.world import World

Tensors = dict[str, Tensor]

_HEADER = "hilum"


def pack(training: Training, generators: list[Tensors], more: dict[str, Any]) -> bytes:
    """Return a checkpoint's bytes: ``training``, every process's generators, and ``more`` facts."""
    average = training.average.network
    slots = training.optimiser.state_dict()["state"]
    tensors = {
        **_below("network", training.network.state_dict()),
        **_below("average", average.state_dict() if average is not None else {}),
        **_below("best", training.best),
        **{f"optimiser/{k}/{name}": slots[k][name] for k in slots for name in slots[k]},
        **{
            f"rng/{k}/{name}": state
            for k, own in enumerate(generators)
            for name, state in own.items()
        },
    }
    facts = {
        **more,
        "schema_version": 1,
        "epoch": training.epoch,
        "step": training.step,
        "losses": training.losses,
        "norms": training.norms,
        "rate": training.rate,
        "rates": training.schedule.get_last_lr(),
        "steps": training.schedule.last_epoch,
        "average_steps": training.average.steps,
        "best_epoch": training.best_epoch,
        "history": training.history,
    }
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return bytes(save(plain, {_HEADER: json.dumps(facts)}))


def facts_of(data: bytes) -> dict[str, Any]:
    """Return the JSON half of a checkpoint, which stands in the safetensors header."""
    length = int.from_bytes(data[:8], "little")
    facts: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_HEADER])
    return facts


def unpack(training: Training, world: World, data: bytes) -> dict[str, Any]:
    """Put a checkpoint into ``training`` and this process's generators; return its facts.

    Raises
    ------
    TrainingError
        If it doesn't fit the network.
    """
    try:
        facts, tensors = facts_of(data), load(data)
        training.network.load_state_dict(_of("network", tensors))
        if training.average.network is not None:
            training.average.network.load_state_dict(_of("average", tensors))
        _restore_optimiser(training, _of("optimiser", tensors), facts)
        _set_generators(_of(f"rng/{world.rank}", tensors), world.device)
        training.average.steps = facts["average_steps"]
        training.epoch, training.step = facts["epoch"], facts["step"]
        training.losses, training.norms = facts["losses"], facts["norms"]
        training.rate, training.history = facts["rate"], facts["history"]
        training.best_epoch = facts["best_epoch"]
        training.best = {k: v.to(world.device) for k, v in _of("best", tensors).items()}
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise TrainingError(
            "the checkpoint does not fit the network",
            where="--resume",
            mend="go on with the hilum version that began the run (its run.json names it)",
        ) from error
    return facts


def _restore_optimiser(training: Training, tensors: Tensors, facts: dict[str, Any]) -> None:
    optimiser, schedule = training.optimiser, training.schedule
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        place, _, name = key.partition("/")
        parameter = parameters[int(place)]
        if value.ndim and value.shape == parameter.shape:
            # in the parameter's own order of memory (channels-last): the next step must take the
            # same arithmetic road as it would have taken
            value = torch.empty_like(parameter).copy_(value)  # noqa: PLW2901
        state.setdefault(int(place), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    for group, rate in zip(groups, facts["rates"], strict=True):
        group["lr"] = rate
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    steps = facts["steps"]
    place_in_schedule = {"last_epoch": steps, "_step_count": steps + 1, "_last_lr": facts["rates"]}
    schedule.load_state_dict({**schedule.state_dict(), **place_in_schedule})


def generators_of(device: torch.device) -> Tensors:
    """Return the state of this process's global random generators: torch, CUDA, numpy."""
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - whoever uses it
    numbers = [int(position), int(has_gauss), int(np.float64(gauss).view(np.int64))]
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.concatenate([np.asarray(keys, np.int64), numbers])),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_generators(states: Tensors, device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    words = states["numpy"].numpy()
    gauss = float(words[-1:].view(np.float64)[0])
    keys = words[:-3].astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(words[-3]), int(words[-2]), gauss))  # noqa: NPY002
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _below(place: str, tensors: Tensors) -> Tensors:
    return {f"{place}/{name}": value for name, value in tensors.items()}


def _of(place: str, tensors: Tensors) -> Tensors:
    return {
        name.removeprefix(f"{place}/"): value
        for name, value in tensors.items()
        if name.startswith(f"{place}/")
    }
