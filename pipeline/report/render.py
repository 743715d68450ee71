"""Shows a draft as plain text, banner first."""

from data_schemas.report import Draft, Evidence, Sentence

EYES = {
    "L": "left",
    "R": "right",
    "B": "both eyes named by the file; no side is stated",
    "U": "not known from the image",
}
SOURCES = {"writer": "chosen by the report writer", "fixed": "fixed"}


def to_text(draft: Draft) -> str:
    """Return the draft as plain text: banner, eye, findings, impression, figures, identities."""
    lines = [draft.banner, "", f"Eye: {EYES[draft.laterality]}"]
    titles = {"quality": "", "findings": "FINDINGS", "impression": "IMPRESSION", "notice": "NOTICE"}
    for section, title in titles.items():
        inside = [s for s in draft.sentences if s.section == section]
        if inside:
            lines += ["", *([title] if title else [])]
            lines += [sentence.text for sentence in inside]
    if any(e.probability is not None for s in draft.sentences for e in s.evidence):
        lines += ["", "FIGURES (calibrated probability; absent below, present from)"]
        lines += _figures(draft.sentences)
    words = f"vocabulary {draft.vocabulary_name} {draft.vocabulary_sha256[:12]}{_writer(draft)}"
    lines += [
        "",
        f"Model: {draft.model.name} {draft.model.version}".rstrip(),
        f"  package {draft.model.package_sha256}, {draft.model.runtime}",
        f"Image: {draft.image_sha256}",
        f"Score: {draft.score_sha256}",
        f"Sentences: {SOURCES[draft.source]}, {words}; read back and equal to the score",
    ]
    if draft.fallback_reason:
        lines.append(f"  the writer was not used: {draft.fallback_reason}")
    lines += [f"Draft: {draft.digest()}", "Signed by: nobody. Not signed."]
    return "\n".join(lines)


def _writer(draft: Draft) -> str:
    return f", writer {draft.writer_sha256[:12]}" if draft.writer_sha256 else ""


def _figures(sentences: tuple[Sentence, ...]) -> list[str]:
    rows = [e for s in sentences if s.section == "findings" for e in s.evidence]
    width = max(len(row.subject) for row in rows)
    return [f"  {row.subject:<{width}}  {_figure(row)}" for row in rows]


def _figure(row: Evidence) -> str:
    if row.probability is None:
        return f"{'-':>6}  {'':>6}  {'':>6}  {row.state}"
    limits = [f"{value:6.3f}" if value is not None else " " * 6 for value in (row.low, row.high)]
    return f"{row.probability:6.3f}  {limits[0]}  {limits[1]}  {row.state}"
