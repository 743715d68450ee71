"""The scores table: its columns, and what each holds for a file that was scored or refused."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from data_schemas.card import Card
from data_schemas.score import ScopeAnswer, Score

SCORES_VERSION = 1
"""``schema_version`` in the metadata of the table."""

FAULT = "FAULT"
"""Refusal code of a file on which our own code failed: a bug to report."""

Row = dict[str, Any]
"""Column -> value; a column that isn't there is empty. Holds what JSON holds."""


def table_schema(card: Card) -> pa.Schema:
    """Return the columns of the scores table of one model."""
    fields = [
        ("file", pa.string()),
        ("source_sha256", pa.string()),
        ("verdict", pa.string()),
        ("refusal_code", pa.string()),
        ("refusal_reason", pa.string()),
        ("primary", pa.string()),
        ("threshold", pa.float64()),
    ]
    for output in card.outputs:
        fields += [
            (f"probability_{output.label}", pa.float64()),
            (f"state_{output.label}", pa.string()),
        ]
        if len(output.columns) > 1:
            names = range(len(output.classes))
            fields += [(f"probability_{output.label}_{k}", pa.float64()) for k in names]
    fields += [
        ("logits", pa.list_(pa.float32())),
        ("format", pa.string()),
        ("modality", pa.string()),
        ("laterality", pa.string()),
        ("rows", pa.int64()),
        ("columns", pa.int64()),
        ("quality", pa.string()),
        ("scope", pa.string()),
        ("distance", pa.float64()),
        ("warnings", pa.string()),
        ("prepared_sha256", pa.string()),
        ("package_sha256", pa.string()),
        ("contract_sha256", pa.string()),
        ("model", pa.string()),
        ("model_version", pa.string()),
        ("runtime", pa.string()),
    ]
    return pa.schema(fields, metadata={"schema_version": str(SCORES_VERSION)})


def refused(code: str, reason: str, source_sha256: str | None = None) -> Row:
    """Return the row of a file that was not scored."""
    return {"source_sha256": source_sha256, "refusal_code": code, "refusal_reason": reason}


def scored(score: Score) -> Row:
    """Return the row of a file that was scored."""
    row: Row = {
        "source_sha256": score.image.source_sha256,
        "verdict": score.verdict,
        "primary": score.primary,
        "threshold": score.threshold,
        "logits": list(score.logits),
        "format": score.image.format,
        "modality": score.image.modality,
        "laterality": score.image.laterality,
        "rows": score.image.rows,
        "columns": score.image.columns,
        "quality": "; ".join(score.quality.reasons) or "sufficient",
        "scope": _scope(score.scope),
        "distance": None if score.scope is None else score.scope.distance,
        "warnings": "; ".join(score.image.warnings),
        "prepared_sha256": score.image.prepared_sha256,
        "model": score.model.name,
        "model_version": score.model.version,
        "runtime": score.model.runtime,
    }
    for finding in score.findings:
        row[f"probability_{finding.name}"] = finding.probability
        row[f"state_{finding.name}"] = finding.state
    for label, classes in score.probabilities.items():
        for index, value in enumerate(classes.values()):
            # a binary label has no such column: the writer takes only those of the schema
            row[f"probability_{label}_{index}"] = value
    return row


def _scope(scope: ScopeAnswer | None) -> str | None:
    if scope is None:
        return None
    return "inside" if scope.inside else "; ".join(scope.reasons)


def outcome_of(row: Mapping[str, Any]) -> str:
    """Return the verdict or the refusal code: what files are counted by."""
    return str(row.get("refusal_code") or row["verdict"])
