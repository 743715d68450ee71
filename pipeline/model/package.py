"""The model package: a folder of a few files that is written whole, verified when opened, or refused.

``SHA256SUMS`` names every other file (``sha256sum -c`` checks it, too); the package's own digest is
the SHA-256 of that list. Bytes are checked whenever they are read, so that what runs is what the digest
names; again only if the file isn't the very one that was checked.
"""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import Card, Evaluation, OperatingPoint, Output
from data_schemas.contract import Contract
from data_schemas.document import Document
from data_schemas.errors import HilumError, PackageError
from data_schemas.files import sha256, write_bytes
from pipeline.model.decision import DEFAULT
from pipeline.model.reference import Reference, unpack_reference
from pipeline.model.sums import (
    CARD,
    CONTRACT,
    KEPT_FILES,
    OPTIONAL,
    REFERENCE,
    SUMS,
    VERIFICATION,
    Sums,
    check_files,
)

Schema = TypeVar("Schema", bound=Document)


@dataclass(frozen=True, slots=True)
class Package:
    """An opened and verified package.

    Parameters
    ----------
    folder, card, contract
        Where it lies, and its two documents.
    sums
        The digests of its files, and which of them were checked.
    """

    folder: Path
    card: Card
    contract: Contract
    sums: Sums = field(repr=False)
    reference: Reference | None = field(default=None, repr=False, compare=False)
    """What the model's own images look like; ``None``: the package keeps none."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes of ``SHA256SUMS``."""
        return self.sums.sha256

    @property
    def digests(self) -> Mapping[str, str]:
        """File name -> SHA-256, as listed there."""
        return self.sums.digests

    def read(self, name: str) -> bytes:
        """Return the bytes of one file, checked against its digest.

        Raises
        ------
        PackageError
            If the file is missing, or isn't the one that ``SHA256SUMS`` names.
        """
        return self.sums.read(name)


@dataclass(frozen=True, slots=True)
class Verification:
    """Real images, and what the network answered when it was exported."""

    images: NDArray[np.uint8]  # [n, size, size, channels]
    logits: NDArray[np.float32]  # [n, K]
    bias: NDArray[np.float32]  # [K]: logit - mean of the evidence


def open_package(
    folder: Path,
    *,
    trusted_keys: Path | None = None,
    files: Callable[[Path], Sums] = check_files,
) -> Package:
    """Open a package and verify every file.

    Parameters
    ----------
    folder
        Where it lies.
    trusted_keys
        File of public keys; then the package must be signed by one of them.
    files
        What checks the files; another one may have begun before, or leave some alone.

    Raises
    ------
    PackageError
        If a file is missing or altered, a document has an unknown version or doesn't fit its
        schema, card and contract don't belong together, or a signature is wanted and wrong.
    """
    sums = files(folder)
    card = _document(Card, sums, CARD)
    contract = _document(Contract, sums, CONTRACT)
    check_documents(card, contract, where=folder)
    if trusted_keys is not None:
        from pipeline.model.signing import check_signature

        check_signature(folder, sums.sha256, trusted_keys)
    reference = None
    if REFERENCE in sums.digests:
        reference = unpack_reference(sums.read(REFERENCE), str(folder / REFERENCE))
    return Package(folder, card, contract, sums, reference)


def verification(package: Package) -> Verification:
    """Return the package's verification set."""
    with np.load(io.BytesIO(package.read(VERIFICATION)), allow_pickle=False) as arrays:
        try:
            return Verification(arrays["images"], arrays["logits"], arrays["bias"])
        except KeyError as error:
            raise PackageError(
                f"lacks the array {error}", where=package.folder / VERIFICATION
            ) from error


def pack_verification(found: Verification) -> bytes:
    """Return the bytes of ``verification.npz``; same arrays, same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, images=found.images, logits=found.logits, bias=found.bias)
    return buffer.getvalue()


def write_package(folder: Path, files: Mapping[str, bytes], card: Card, contract: Contract) -> None:
    """Write a package folder whole or not at all.

    Parameters
    ----------
    folder
        Must not exist, or be empty.
    files
        ``model.onnx``, ``model.safetensors`` and ``verification.npz``; ``model.int8.onnx`` and
        ``reference.npz`` where there are such.
    card, contract
        The two documents.

    Raises
    ------
    PackageError
        If the documents don't fit each other, or ``folder`` already holds something.
    """
    check_documents(card, contract, where=folder)
    kept = (*KEPT_FILES, *(name for name in OPTIONAL if name in files))
    with _new_folder(folder) as part:
        for name in kept:
            write_bytes(part / name, files[name])
        card.write_json(part / CARD)
        contract.write_json(part / CONTRACT)
        listed = sorted((*kept, CARD, CONTRACT))
        lines = [f"{sha256((part / name).read_bytes())}  {name}\n" for name in listed]
        write_bytes(part / SUMS, "".join(lines).encode())


def with_evaluation(
    package: Package,
    evaluation: Evaluation | None,
    folder: Path,
    *,
    name: str = "",
    notes: tuple[str, ...] = (),
) -> Package:
    """Write the same model as a new package whose card holds the evaluation and further notes.

    ``name`` is the one that scores will carry; empty: the one it has.
    """
    update = {
        "name": name or package.card.name,
        "evaluation": evaluation,
        "notes": (*package.card.notes, *notes),
    }
    card = package.card.model_copy(update=update)
    write_package(folder, kept_files(package), card, package.contract)
    return open_package(folder)


def kept_files(package: Package) -> dict[str, bytes]:
    """Return the files that stay the same when only the card changes."""
    return {name: package.read(name) for name in package.digests if name not in (CARD, CONTRACT)}


def check_documents(card: Card, contract: Contract, *, where: Path | str) -> None:
    """Check that a card agrees with itself and with its contract.

    Raises
    ------
    PackageError
        Names every disagreement, not only the first.
    """
    faults = [*_contract_faults(card, contract), *_output_faults(card)]
    for point in card.operating_points:
        faults += _point_faults(point, card.outputs)
    if faults:
        raise PackageError("; ".join(faults), where=where)


def _contract_faults(card: Card, contract: Contract) -> Iterator[str]:
    if card.contract_sha256 != contract.digest():
        yield (
            f"the card was made for contract {card.contract_sha256[:12]}, "
            f"this one is {contract.digest()[:12]}"
        )
    if (card.size, card.channels) != (contract.size, contract.channels):
        yield (
            f"the card says {card.size} px and {card.channels} channels, "
            f"the contract {contract.size} px and {contract.channels}"
        )


def _output_faults(card: Card) -> Iterator[str]:
    names = [output.label for output in card.outputs]
    if len(set(names)) != len(names):
        yield "a label stands twice among the outputs"
    columns = [column for output in card.outputs for column in output.columns]
    if sorted(columns) != list(range(len(columns))):
        yield f"the outputs' columns are {columns}, expected each of 0..{len(columns) - 1} once"
    for output in card.outputs:
        yield from _link_faults(output)
    if card.primary not in names:
        yield f"the primary label {card.primary!r} is not among the outputs"
    points = [(point.label, point.name) for point in card.operating_points]
    if (card.primary, DEFAULT) not in points:
        yield f"the primary label {card.primary!r} has no operating point"
    if len(set(points)) != len(points):
        yield "a label has two operating points of one name"


def _link_faults(output: Output) -> Iterator[str]:
    columns, positive = len(output.columns), set(output.positive_classes)
    # one column is a sigmoid and answers two classes; K columns are a softmax of K classes, or one
    # sigmoid for each step between K + 1 grades
    answers = columns + 1 if columns == 1 or output.link == "cumulative" else columns
    if len(output.classes) != answers:
        yield f"{output.label} has {len(output.classes)} classes for {answers} answers"
    if not positive or not positive < set(range(answers)):
        yield f"{output.label}: positive classes {sorted(positive)} of 0..{answers - 1}"
    if len(output.shift) not in (0, columns):
        yield f"{output.label} has {len(output.shift)} shifts for {columns} columns"


def _point_faults(point: OperatingPoint, outputs: tuple[Output, ...]) -> Iterator[str]:
    if point.label not in {output.label for output in outputs}:
        yield f"the operating point of {point.label!r} belongs to no output"
    if point.low > point.high:
        yield f"{point.label}: the lower threshold {point.low} lies above the upper {point.high}"


def _document(schema: type[Schema], sums: Sums, name: str) -> Schema:
    where = sums.folder / name
    try:
        return schema.from_tree(json.loads(sums.read(name)), where=str(where))
    except HilumError as error:
        raise PackageError(str(error), mend=error.mend) from error
    except ValueError as error:
        raise PackageError(f"is not JSON: {error}", where=where) from error


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PackageError(
            "already exists; packages are not written over", where=folder, mend="name a new folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        yield part
        part.chmod(0o755)
        # POSIX renames a folder onto an empty one in a single step
        os.replace(part, folder)  # noqa: PTH105 - Path.replace says nothing about folders
    finally:
        shutil.rmtree(part, ignore_errors=True)
