"""Trains the report writer on simulated reports, in MLflow, and writes the writer's folder."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_schemas import files, settings
from data_schemas.errors import ReportError
from data_schemas.plan import Learning
from data_schemas.progress import Progress, silent
from data_schemas.report import Vocabulary, WriterCard, WriterPlan
from data_schemas.version import our_version
from pipeline.model.cores import available_cores
from pipeline.model.export import to_onnx
from pipeline.model.session import open_session
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
from pipeline.report.readback import check_reads_back
from pipeline.report.simulate import SimulatedReport, draw_report, draw_score
from pipeline.report.write import draft, open_writer
from pipeline.tracking.runs import TrackedRun, tracked_run
from pipeline.train.loop import Training, fit
from pipeline.train.world import World

EXPERIMENT = "report-writer"
TOLERANCE = 1e-4
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
    check_reads_back(vocabulary)
    _check_drafts(vocabulary, plan.seed)
    tags = {"hilum.vocabulary": vocabulary.name, "hilum.vocabulary_sha256": vocabulary.digest()}
    with tracked_run(tracking_uri, EXPERIMENT, f"writer-{vocabulary.name}", tags) as run:
        run.log_params({f"writer.{key}": value for key, value in plan.model_dump().items()})
        tokens = tokens_of(vocabulary)
        with _repeatable(plan):
            network = Decoder(_size(vocabulary, plan))
            seconds = time.monotonic()
            figures = _learn(network, vocabulary, plan, run, progress)
            figures["time/learning_s"] = time.monotonic() - seconds
            run.log_metrics(figures, step=0)
            card = _write(network, vocabulary, plan, folder, run.run_id, figures)
        run.log_metrics({"export/max_logit_difference": card.onnx_max_logit_difference}, step=0)
        run.log_files(folder, "writer")
        run.log_text(_examples(folder, vocabulary, plan.seed), "drafts.txt")
        run.log_text("\n".join(tokens) + "\n", "tokens.txt")
    return card


@dataclass(frozen=True, slots=True)
class SimulatedEpochs:
    """Batches of fresh simulated reports; which ones follows from seed and epoch only."""

    vocabulary: Vocabulary
    plan: WriterPlan
    number: dict[str, int]

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return math.ceil(self.plan.reports / self.plan.batch)

    def __call__(self, epoch: int, after: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of ``epoch``: words [b, t] and the words that follow them [b, t]."""
        rng = np.random.default_rng([self.plan.seed, 0, epoch])
        for place in range(self.steps):
            reports = [draw_report(self.vocabulary, rng) for _ in range(self.plan.batch)]
            if place >= after:
                yield batch_of(reports, self.number)


def _learn(
    network: Decoder, vocabulary: Vocabulary, plan: WriterPlan, run: TrackedRun, progress: Progress
) -> dict[str, float]:
    """Train in place with the one loop of this house; return the last figures."""
    tokens = tokens_of(vocabulary)
    epochs = SimulatedEpochs(vocabulary, plan, {word: n for n, word in enumerate(tokens)})
    rng = np.random.default_rng([plan.seed, 1])
    unseen = [draw_report(vocabulary, rng) for _ in range(plan.unseen)]
    untrained = manner(TorchWriter(network.eval(), tokens), unseen, vocabulary)

    def validate(judged: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"tune/loss": float(loss_of(judged, batch_of(unseen, epochs.number)))}

    def track(epoch: int, step: int, metrics: dict[str, float] | None) -> None:
        if metrics is None:
            done = (epoch - 1) * epochs.steps + step
            progress(done, plan.epochs * epochs.steps, f"epoch {epoch}")
            return
        run.log_metrics(metrics, epoch)
        run.flush()

    training = Training(network, _learning(plan), epochs.steps)
    fitted = fit(training, epochs, loss_of, validate, track, World())
    trained = manner(TorchWriter(network, tokens), unseen, vocabulary)
    return {
        **{f"trained/{name}": value for name, value in trained.items()},
        **{f"untrained/{name}": value for name, value in untrained.items()},
        "unseen/loss": fitted.best["tune/loss"],
        "unseen/best_epoch": float(fitted.best_epoch),
    }


def loss_of(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean cross-entropy of the next word, in nats, over the words of the reports."""
    words_bt, targets_bt = batch
    logits_btv = network(words_bt)
    return torch.nn.functional.cross_entropy(
        logits_btv.flatten(0, 1), targets_bt.flatten(), ignore_index=IGNORED
    )


def _learning(plan: WriterPlan) -> Learning:
    return Learning(
        epochs=plan.epochs,
        batch=plan.batch,
        rate=plan.rate,
        weight_decay=plan.weight_decay,
        warmup=plan.warmup,
        gradient_norm=plan.gradient_norm,
        patience=plan.epochs,
    )


def batch_of(reports: list[SimulatedReport], number: dict[str, int]) -> tuple[Tensor, Tensor]:
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


def _check_drafts(vocabulary: Vocabulary, seed: int) -> None:
    """Refuse a vocabulary whose drafts, whole, don't pass the check."""
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
        hilum_version=our_version(),
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
    # two texts of seven words: from a 1 the exporter would conclude that there is always one
    example = torch.zeros((2, 7), dtype=torch.int64)
    time_dim = torch.export.Dim("t", min=1, max=network.size.positions)
    shapes = {"words_bt": {0: torch.export.Dim("b", min=1), 1: time_dim}}
    return to_onnx(network, example, ("words",), ("logits",), shapes)


def _compare(network: Decoder, graph: bytes) -> float:
    """Return the largest difference between torch and ONNX Runtime, at several shapes.

    Raises
    ------
    ReportError
        If it is over the tolerance, or the likeliest next words differ.
    """
    session = open_session(graph)
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
    torch.set_num_threads(plan.threads or available_cores())
    try:
        yield
    finally:
        torch.random.set_rng_state(state)
        torch.set_num_threads(threads)
