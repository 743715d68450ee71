"""The contract, the versions and the digests of a data set, in words that a person can check."""

from html import escape

from data_schemas.contract import Contract
from data_schemas.dataset import DatasetInfo
from pipeline.ingest.page.markup import Cell, digest, facts

_WINDOW = {
    "header": "the first window or look-up table of the header",
    "range": "lowest to highest value of each image",
    "fixed": "one window for all images",
}
_FIT = {
    "pad": "aspect kept, filled with black to a square",
    "stretch": "stretched to a square",
}


def contract_facts(contract: Contract) -> str:
    """Return what is accepted and how it becomes an array; what the words miss stands in the whole."""
    accept, limits, grey = contract.accept, contract.limits, contract.grey
    window = _WINDOW.get(grey.window, grey.window)
    if grey.window == "fixed":
        window += f" (centre {grey.centre:g}, width {grey.width:g})"
    lines: list[tuple[str, Cell]] = [
        ("name", escape(contract.name)),
        ("for", escape(contract.description or "–")),
        ("formats", escape(", ".join(accept.formats))),
        ("modalities", escape(", ".join(accept.modalities) or "any")),
        ("many frames", escape(accept.frames)),
        ("colour", escape(accept.colour)),
        (
            "limits",
            f"{limits.file_bytes / 2**20:,.0f}&nbsp;MiB, side {limits.side_px:,}&nbsp;px, {limits.pixels / 1e6:,.0f}&nbsp;megapixels",
        ),
        ("grey values", escape(window)),
        ("region", escape(contract.region.replace("_", " "))),
        ("quality", escape(_quality(contract))),
        ("fit", escape(_FIT.get(contract.fit, contract.fit))),
        (
            "array",
            f"{contract.size} × {contract.size} × {contract.channels}, whole numbers 0 to 255",
        ),
    ]
    whole = escape(contract.model_dump_json(indent=2))
    return (
        f"{facts(lines)}<details><summary>The whole contract</summary><pre>{whole}</pre></details>"
    )


def made(info: DatasetInfo) -> str:
    """Return how the data set came to be: versions, digests, changes. No paths, no names of files."""
    lines: list[tuple[str, Cell]] = [
        ("content", f"<code>{escape(info.content_sha256)}</code>"),
        (
            "contract",
            f"{escape(info.contract_name)} <code>{escape(info.contract_sha256)}</code>",
        ),
        ("version", str(info.version)),
    ]
    if info.previous_sha256:
        changes = info.changes
        lines += [
            ("version before", digest(info.previous_sha256)),
            (
                "changes",
                f"{changes.added:,} images added, {changes.removed:,} removed, {changes.relabelled:,} with other labels",
            ),
        ]
    lines += [
        ("made by", f"hilum {escape(info.hilum_version)}"),
        ("shards", f"{len(info.shards):,}"),
    ]
    return facts(lines)


def _quality(contract: Contract) -> str:
    limits = contract.quality
    if not limits.check:
        return "not checked"
    told = limits.model_dump(exclude={"check", "gate"}, exclude_defaults=True)
    words = [f"{name.replace('_', ' ')} {value:g}" for name, value in told.items()]
    if limits.gate is not None:
        words.append(f"a learned gate on {', '.join(limits.gate.terms)}")
    return "; ".join(words)
