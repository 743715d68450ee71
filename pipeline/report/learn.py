"""Trains the report writer on simulated reports, in MLflow, and writes the writer's folder."""

import contextlib
import copy
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_schemas import files, settings
from data_schemas.errors import ReportError, TrainingError
from data_schemas.progress import Progress, silent
from data_schemas.report import Vocabulary, WriterCard, WriterPlan
from pipeline.report.language import (
    END,
    START,
    TEXT,
    check_language,
    everything,
    prompt_token,
    tokens_of,
)
from pipeline.report.manner import manner
from pipeline.report.network import Decoder, Size
from pipeline.report.simulate import SimulatedReport, draw_report, draw_score
from pipeline.report.write import draft, open_writer
from pipeline.tracking.runs import TrackedRun, tracked_run

EXPERIMENT = "report-writer"
OPSET = 20  # the first with Gelu as one operator
TOLERANCE = 1e-4
LOG_EVERY = 10
IGNORED = -100  # torch's mark for positions without a target


@dataclass(frozen=True, slots=True)
class TorchWriter:
    """A decoder seen as a writer, for figures during training."""

    network: Decoder
    tokens: tuple[str, ...]
    sha256: str = ""

    def logits(self, numbers: list[int]) -> NDArray[np.float32]:
        """Return one logit per token for the word after ``numbers``."""
        with torch.no_grad():
            answer: NDArray[np.float32] = self.network(torch.tensor([numbers]))[0, -1].numpy()
        return answer


def learn(
    vocabulary: Vocabulary,
    plan: WriterPlan,
    folder: Path,
    tracking_uri: str,
    progress: Progress = silent,
) -> WriterCard:
    """Train a writer for ``vocabulary`` and write ``folder``, tracked as one MLflow run.

    Parameters
    ----------
    vocabulary, plan
        What it may say; how it is trained.
    folder
        Where ``writer.onnx``, ``writer.safetensors``, ``vocabulary.yaml`` and ``writer.json`` go;
        must not exist, or be empty.
    tracking_uri
        MLflow's store.
    progress
        Called after each step.

    Returns
    -------
    WriterCard
        As written to ``writer.json``.

    Raises
    ------
    ReportError
        If the folder isn't empty, the vocabulary is ambiguous or can't be read back, or the
        exported graph disagrees with torch.
    TrainingError
        If the loss stops being finite.
    """
    check_language(vocabulary)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ReportError("is not an empty folder", where=folder, mend="choose another --out")
    _check_reads_back(vocabulary, plan.seed)
    tags = {"hilum.vocabulary": vocabulary.name, "hilum.vocabulary_sha256": vocabulary.digest()}
    with tracked_run(tracking_uri, EXPERIMENT, f"writer-{vocabulary.name}", tags) as run:
        run.log_params({f"writer.{key}": value for key, value in plan.model_dump().items()})
        tokens = tokens_of(vocabulary)
        with _repeatable(plan):
            network = Decoder(_size(vocabulary, plan))
            seconds = time.monotonic()
            figures = _learn(network, vocabulary, plan, run, progress)
            figures["time/learning_s"] = time.monotonic() - seconds
            run.log_metrics({k: v for k, v in figures.items() if k != "loss/train"}, step=0)
            card = _write(network, vocabulary, plan, folder, run.run_id, figures)
        run.log_metrics({"export/max_logit_difference": card.onnx_max_logit_difference}, step=0)
        run.log_files(folder, "writer")
        run.log_text(_examples(folder, vocabulary, plan.seed), "drafts.txt")
        run.log_text("\n".join(tokens) + "\n", "tokens.txt")
    return card


def _learn(
    network: Decoder,
    vocabulary: Vocabulary,
    plan: WriterPlan,
    run: TrackedRun,
    progress: Progress,
) -> dict[str, float]:
    """Train in place: report, forward, loss, backward, step. Return the last figures."""
    tokens = tokens_of(vocabulary)
    number = {word: n for n, word in enumerate(tokens)}
    held_out = np.random.default_rng([plan.seed, 1])
    unseen = [draw_report(vocabulary, held_out) for _ in range(plan.check_reports)]
    before = manner(TorchWriter(copy.deepcopy(network).eval(), tokens), unseen, vocabulary)
    rng = np.random.default_rng([plan.seed, 0])
    optimiser = torch.optim.AdamW(
        network.parameters(), plan.rate, betas=(0.9, 0.95), weight_decay=plan.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step, plan))
    losses: list[float] = []
    network.train()
    for step in range(1, plan.steps + 1):
        reports = [draw_report(vocabulary, rng) for _ in range(plan.batch)]
        words_bt, targets_bt = _batch(reports, number)
        logits_btv = network(words_bt)
        loss = torch.nn.functional.cross_entropy(
            logits_btv.flatten(0, 1), targets_bt.flatten(), ignore_index=IGNORED
        )
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} at step {step}", mend="lower the rate")
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), plan.gradient_norm)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if step % LOG_EVERY == 0 or step == plan.steps:
            recent = losses[-LOG_EVERY:]
            rate = schedule.get_last_lr()[0]
            run.log_metrics({"loss/train": sum(recent) / len(recent), "learning/rate": rate}, step)
        progress(step, plan.steps, f"loss {loss.item():.3f}")
    run.flush()
    network.eval()
    after = manner(TorchWriter(network, tokens), unseen, vocabulary)
    return {
        **{f"trained/{name}": value for name, value in after.items()},
        **{f"untrained/{name}": value for name, value in before.items()},
        "loss/unseen": _loss(network, unseen, number),
        "loss/train": losses[-1],
    }


def _share(step: int, plan: WriterPlan) -> float:
    """Return the learning rate at ``step`` as a share of the highest: linear up, cosine down."""
    warm = max(1, round(plan.warmup * plan.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, plan.steps - warm)))


def _batch(reports: list[SimulatedReport], number: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Return words [b, t] and, shifted by one, what follows them; the prompt is never a target."""
    rows = []
    starts = []
    for report in reports:
        prompt = [START, *(prompt_token(s) for s in report.told), TEXT]
        words = [word for sentence in report.sentences for word in sentence.words]
        rows.append([number[word] for word in [*prompt, *words, END]])
        starts.append(len(prompt))
    longest = max(map(len, rows))
    padded = torch.full((len(rows), longest), number[END])
    targets = torch.full((len(rows), longest), IGNORED)
    for n, (row, start) in enumerate(zip(rows, starts, strict=True)):
        padded[n, : len(row)] = torch.tensor(row)
        targets[n, start : len(row)] = torch.tensor(row[start:])
    return padded[:, :-1], targets[:, 1:]


def _loss(network: Decoder, reports: list[SimulatedReport], number: dict[str, int]) -> float:
    words_bt, targets_bt = _batch(reports, number)
    with torch.no_grad():
        logits_btv = network(words_bt)
    loss = torch.nn.functional.cross_entropy(
        logits_btv.flatten(0, 1), targets_bt.flatten(), ignore_index=IGNORED
    )
    return float(loss)


def _size(vocabulary: Vocabulary, plan: WriterPlan) -> Size:
    """Return a size whose positions hold the longest text that the language allows."""
    longest: dict[str, int] = {}
    for statement, choice in everything(vocabulary):
        length = len(choice.words)
        longest[statement.subject] = max(longest.get(statement.subject, 0), length)
    # a list covers at least two statements and is no longer than their own longest sentences
    # together by more than the list's frame, which the first statement's entry holds
    positions = sum(longest.values()) + len(longest) + 3
    return Size(len(tokens_of(vocabulary)), positions, plan.layers, plan.heads, plan.width)


def _check_reads_back(vocabulary: Vocabulary, seed: int) -> None:
    """Refuse a vocabulary whose sentences the independent reader doesn't understand."""
    rng = np.random.default_rng([seed, 2])
    for _ in range(50):
        draft(draw_score(vocabulary, rng), vocabulary)


def _write(
    network: Decoder,
    vocabulary: Vocabulary,
    plan: WriterPlan,
    folder: Path,
    run_id: str,
    figures: dict[str, float],
) -> WriterCard:
    import safetensors.torch

    graph = _graph(network)
    difference = _compare(network, graph)
    weights = safetensors.torch.save({k: v.clone() for k, v in network.state_dict().items()})
    card = WriterCard(
        hilum_version=_version(),
        run_id=run_id,
        plan=plan,
        vocabulary_name=vocabulary.name,
        vocabulary_sha256=vocabulary.digest(),
        tokens=tokens_of(vocabulary),
        positions=network.size.positions,
        parameters=network.size.parameters,
        onnx_sha256=files.sha256(graph),
        weights_sha256=files.sha256(weights),
        onnx_max_logit_difference=difference,
        figures=figures,
    )
    files.write_bytes(folder / "writer.onnx", graph)
    files.write_bytes(folder / "writer.safetensors", weights)
    files.write_text(folder / "vocabulary.yaml", settings.to_yaml(vocabulary))
    card.write_json(folder / "writer.json")  # last: a folder without it is no writer
    return card


def _graph(network: Decoder) -> bytes:
    """Return the network as ONNX, words int64 [b, t] -> logits float32 [b, t, v], both free."""
    import onnx

    # two texts of seven words: from a 1 the exporter would conclude that there is always one
    example = torch.zeros((2, 7), dtype=torch.int64)
    time_dim = torch.export.Dim("t", min=1, max=network.size.positions)
    shapes = {"words_bt": {0: torch.export.Dim("b", min=1), 1: time_dim}}
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                input_names=["words"],
                output_names=["logits"],
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        quiet.setLevel(level)
    if program is None:
        raise ReportError("the exporter returned no graph")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "writer.onnx"
        program.save(str(path), external_data=False)
        model = onnx.load(str(path))
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _strip(model: object) -> None:
    """Remove the exporter's notes: they name source files and lines of this machine."""
    graph = model.graph  # type: ignore[attr-defined]
    nodes = [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]
    for node in [*nodes, *model.functions]:  # type: ignore[attr-defined]
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    graph.ClearField("value_info")
    graph.name = "hilum-writer"


def _compare(network: Decoder, graph: bytes) -> float:
    """Return the largest difference between torch and ONNX Runtime, at several shapes.

    Raises
    ------
    ReportError
        If it is over the tolerance, or the likeliest next words differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    worst = 0.0
    for texts, words in ((1, 1), (1, 9), (3, 2), (2, network.size.positions)):
        words_bt = rng.integers(0, network.size.words, (texts, words))
        found = session.run(["logits"], {"words": words_bt})[0]
        with torch.no_grad():
            expected = network(torch.from_numpy(words_bt)).numpy()
        worst = max(worst, float(np.abs(found - expected).max()))
        same = (found.argmax(2) == expected.argmax(2)).all()
        if not (worst <= TOLERANCE and same):
            raise ReportError(
                f"ONNX Runtime's logits differ from torch's by {worst:.3g} "
                f"(allowed {TOLERANCE:g}) at {texts} x {words} words"
            )
    return worst


def _examples(folder: Path, vocabulary: Vocabulary, seed: int) -> str:
    """Return a few drafts of the finished writer, for the run's page."""
    writer = open_writer(folder)
    rng = np.random.default_rng([seed, 3])
    drafts = [draft(draw_score(vocabulary, rng), vocabulary, writer) for _ in range(10)]
    return "\n\n".join(f"[{d.source}] {d.text}" for d in drafts) + "\n"


@contextlib.contextmanager
def _repeatable(plan: WriterPlan) -> Iterator[None]:
    """Seed torch and bound its threads; leave both as they were."""
    state = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    torch.manual_seed(plan.seed)
    if plan.threads:
        torch.set_num_threads(plan.threads)
    try:
        yield
    finally:
        torch.random.set_rng_state(state)
        torch.set_num_threads(threads)


def _version() -> str:
    with contextlib.suppress(PackageNotFoundError):
        return version("hilum")
    return ""
