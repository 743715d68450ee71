"""torch.compile where a plan asks for it: tried once, and left out with a remark if it fails."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.train.world import World


def compiled(
    network: nn.Module, example: Tensor, world: World, precision: str, say: Callable[[str], None]
) -> nn.Module:
    """Return a faster form of ``network`` with the same weights, or ``network`` itself.

    Compiling needs a C++ compiler on a processor, Triton on a GPU; what is missing shows only when
    a gradient is wanted. So one step is tried on ``example`` [n, S, S, C], after which weights,
    running statistics and random generators are what they were.
    """
    kept = copy.deepcopy(network.state_dict())
    training = network.training
    devices = [world.device] if world.device.type == "cuda" else []
    fast: nn.Module = torch.compile(network)
    try:
        with torch.random.fork_rng(devices):
            network.train()
            with world.autocast(precision):
                logits = fast(example)[0]
            logits.sum().backward()
    except Exception as error:  # noqa: BLE001 - of many kinds, from torch's and others' compilers
        first = str(error).strip().partition("\n")[0]
        say(f"note: torch.compile fails here, training goes on without: {first[:200]}")
        return network
    finally:
        network.load_state_dict(kept)
        network.zero_grad(set_to_none=True)
        network.train(training)
    return fast
