"""Reads a draft's text back into what it claims: small rules of its own, nothing shared with the writer.

The reader knows neither the score nor the vocabulary. It has its own words for each finding, its own
rules for negation and hedging, and a short list of plain words; whatever it doesn't know it names,
so that a sentence it can't follow counts as a fault and not as silence.
"""

import re
from dataclasses import dataclass

from data_schemas.terms import FindingState

TERMS: dict[str, str] = {
    "referable": r"referable (?:diabetic )?(?:retinopathy|disease)",
    "dr_grade": r"(?:diabetic )?retinopathy of (?:a |any )?reportable grade",
    "microaneurysms": r"micro-?aneurysms?",
    "haemorrhages": r"ha?emorrhages?|bleeding|bleeds?",
    "exudates": r"(?:hard )?exudates?|lipid deposits?",
    "new_vessels": r"new (?:blood )?vessels?|neovasculari[sz]ations?",
    "maculopathy": r"maculopathy|macular o?edema",
}
"""Finding -> how people write it."""

NOT_ASSESSED = r"(?:was|were|is|are)?\s*not (?:been )?(?:assessed|evaluated|judged)|(?:did|could) not (?:assess|evaluate|judge)|unassessed"
HEDGES = r"possibl[ey]|may (?:be|have)|might|suspected|suspicion of|equivocal|uncertain|not (?:certain|sure)|cannot be (?:excluded|ruled out)|questionable"
NEGATIONS = r"no|not|none|nor|neither|never|without|absent|absence|lack(?:s|ing)?|free (?:of|from)|\w+n't|cannot"
PRIORS = r"unchanged|stable|interval|prior|previous(?:ly)?|again|earlier|former(?:ly)?|since|compar(?:ed|ison)|improved|worse(?:ned|ning)?|progress(?:ed|ion)|increas(?:ed|ing)|decreas(?:ed|ing)|resolved|persist(?:s|ent|ing)?|still|remain(?:s|ing)?|now|recent(?:ly)?|newly|new(?! (?:blood )?vessels?)"
CLAUSE_END = r";|,?\s+\b(?:but(?! not (?:certain|sure))|however|although|though|yet|except)\b"
OVERALL = r"(positive|negative|indeterminate) for"
OVERALL_STATES: dict[str, FindingState] = {
    "positive": "present",
    "indeterminate": "uncertain",
    "negative": "absent",
}
SIDES = {"right": "R", "left": "L", "both": "B", "bilateral": "B", "bilaterally": "B"}
GRADES = {
    r"no (?:apparent )?(?:diabetic )?retinopathy": "0",
    r"mild": "1",
    r"moderate": "2",
    r"severe": "3",
    r"(?<!non-)(?<!non )proliferative": "4",
}
REASONS = {
    "blur": r"blur(?:red|ry)|out of focus",
    "dark": r"too dark|under-?exposed",
    "bright": r"too bright|over-?exposed",
    "field": r"too little of the field",
    "blocks": r"detail is lost in blocks",
    "motion": r"smeared by movement",
    "contrast": r"too little contrast",
    "shade": r"part of the field (?:of view )?is in shade",
    "colour": r"unlike a retina in colour",
    "further": r"a further reason, which the score names",
    "other": r"no further reason",
}
HARMLESS = (
    r"no findings? (?:was|were) (?:assessed|evaluated|judged)|if (?:this|that) is not possible"
)
"""Negations that turn no claim about the eye, the image or what to do."""
ADVICE = {
    "refer": r"refer|referral",
    "review": r"review",
    "repeat": r"repeat|retake",
    "check": r"check",
}
PLAIN_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a advised all an and answer any are ask at be by clinic clinician diabetic did each eye field
    finding findings for from fundus further given gives grade grades has have if image impression in
    is it its made most need needed needs of on or other outside overall patient photograph please
    possible present probable quality reason referable reportable retinopathy scored see seen set
    limits show shown shows sign signs single software sufficient insufficient adequate inadequate
    that the there these this to too view visible was were what with assess assessed but certain not
    no""",
    )
)
"""Words that carry no claim of their own. Sizes, places, numbers, drugs and the rest are not here."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A finding with what is said of it: a state, or ``unclear`` (two negations, say)."""

    finding: str
    state: FindingState | str
    sentence: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that a text claims."""

    findings: tuple[Mention, ...]
    overall: tuple[Mention, ...]
    grades: tuple[str, ...]
    eyes: tuple[str, ...]
    """Sides said in sentences about the eye itself, L, R or B."""
    stray_sides: tuple[str, ...]
    """Sides said anywhere else."""
    quality: tuple[str, ...]
    reasons: tuple[str, ...]
    out_of_scope: bool
    advice: frozenset[str]
    points_to_others: bool
    priors: tuple[str, ...]
    numbers: tuple[str, ...]
    unknown: tuple[str, ...]
    """Words that the reader has no rule for."""
    unread: tuple[str, ...]
    """Sentences with a clause in which it found no claim, or one that a negation or a hedge may turn."""


def read(text: str) -> Reading:
    """Return what ``text`` (a draft's sentences, without banner and headings) claims."""
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n+", text.strip()) if s]
    parts = [_sentence(sentence, place) for place, sentence in enumerate(sentences)]

    def gather(name: str) -> tuple[str, ...]:
        return tuple(value for part in parts for value in getattr(part, name))

    return Reading(
        findings=tuple(m for part in parts for m in part.findings),
        overall=tuple(m for part in parts for m in part.overall),
        grades=gather("grades"),
        eyes=gather("eyes"),
        stray_sides=gather("stray_sides"),
        quality=gather("quality"),
        reasons=gather("reasons"),
        out_of_scope=any(part.out_of_scope for part in parts),
        advice=frozenset().union(*(part.advice for part in parts)),
        points_to_others=any(part.points_to_others for part in parts),
        priors=gather("priors"),
        numbers=gather("numbers"),
        unknown=gather("unknown"),
        unread=gather("unread"),
    )


def _sentence(sentence: str, place: int) -> Reading:
    low = sentence.lower()
    is_grade = bool(re.search(r"\bgrades?\b", low)) and not _find(TERMS["dr_grade"], low)
    clauses = re.split(CLAUSE_END, low)
    findings = [] if is_grade else [m for c in clauses for m in _mentions(c, place)]
    overall = [m for c in clauses for m in _overall(c, place)]
    sides = tuple(SIDES[word] for word in re.findall(r"\w+", low) if word in SIDES)
    of_eye = bool(re.search(r"\b(?:eyes?|fundus)\b", low)) and not findings and not overall
    grades = _grade(low) if is_grade else ()
    quality = _quality(low) if "quality" in low else ()
    reasons = tuple(reason for reason, words in REASONS.items() if _find(words, low))
    advice = frozenset(kind for kind, words in ADVICE.items() if _find(words, low))
    followed = is_grade or all(_is_followed(clause) for clause in clauses)
    return Reading(
        findings=tuple(findings),
        overall=tuple(overall),
        grades=grades,
        eyes=sides if of_eye else (),
        stray_sides=() if of_eye else sides,
        quality=quality,
        reasons=reasons,
        out_of_scope="outside what" in low,
        advice=advice,
        points_to_others="other findings" in low,
        priors=tuple(_find(PRIORS, low)),
        numbers=tuple(re.findall(r"\d+", low)),
        unknown=_unknown(low, is_grade=is_grade),
        unread=() if followed else (sentence,),
    )


def _is_followed(clause: str) -> bool:
    """Tell whether a clause claims something, and nothing in it may turn the claim unnoticed."""
    if not re.search(r"\w", clause):
        return True
    # findings, the impression and the quality have rules of their own for negation
    if any(_find(words, clause) for words in (*TERMS.values(), OVERALL, "quality")):
        return True
    harmless, clause = _take(HARMLESS, clause)
    reasons, rest = _take("|".join(REASONS.values()), clause)
    others = "outside what" in clause or "other findings" in clause
    advice = any(_find(words, clause) for words in ADVICE.values())
    sides = any(word in SIDES for word in re.findall(r"\w+", clause))
    claims = harmless or reasons or others or advice or sides
    return bool(claims) and not _find(f"{NEGATIONS}|{HEDGES}", rest)


def _mentions(clause: str, place: int) -> list[Mention]:
    match = re.search(rf"\b{OVERALL}\b", clause)
    clause = clause[: match.start()] if match else clause  # the rest is the impression's
    found = [name for name, words in TERMS.items() for _ in _find(words, clause)]
    return [Mention(name, _state(clause), place) for name in found]


def _state(clause: str) -> FindingState | str:
    for words in TERMS.values():
        clause = re.sub(rf"\b(?:{words})\b", " ", clause)
    unassessed, clause = _take(NOT_ASSESSED, clause)
    hedges, clause = _take(HEDGES, clause)
    negations, clause = _take(NEGATIONS, clause)
    if bool(unassessed) + bool(hedges) + negations > 1:
        return "unclear"
    if unassessed:
        return "not_assessed"
    if hedges:
        return "uncertain"
    return "absent" if negations else "present"


def _overall(clause: str, place: int) -> list[Mention]:
    match = re.search(rf"\b{OVERALL}\b(.*)", clause)
    if match is None:
        return []
    verdict = OVERALL_STATES[match[1]]
    # a negation or a hedge around "positive for" would turn it: nothing of ours says so
    turned = any(_find(cues, clause) for cues in (NEGATIONS, HEDGES, NOT_ASSESSED))
    state = "unclear" if turned else verdict
    return [Mention(n, state, place) for n, w in TERMS.items() for _ in _find(w, match[2])]


def _grade(low: str) -> tuple[str, ...]:
    if _find(r"uncertain|not (?:certain|sure)|no single grade", low):
        return ("uncertain",)
    named = tuple(grade for words, grade in GRADES.items() if _find(words, low))
    negations, _ = _take(NEGATIONS, re.sub(next(iter(GRADES)), " ", low))
    return ("unclear",) if negations or len(named) != 1 else named


def _quality(low: str) -> tuple[str, ...]:
    _, low = _take(HARMLESS, low)
    if _find(HEDGES, low):
        return ("unclear",)
    bad, rest = _take(r"insufficient|inadequate|poor|not (?:sufficient|adequate)", low)
    if bad:
        return ("unclear",) if _find(NEGATIONS, rest) else ("insufficient",)
    if _find(NOT_ASSESSED, low):
        return ("not_assessed",)
    good = _find(r"sufficient|adequate|good", low) and not _find(NEGATIONS, low)
    return ("sufficient",) if good else ("unclear",)


def _unknown(low: str, *, is_grade: bool) -> tuple[str, ...]:
    known = [*TERMS.values(), NOT_ASSESSED, HEDGES, NEGATIONS, CLAUSE_END, OVERALL, PRIORS]
    known += [*REASONS.values(), *ADVICE.values(), *SIDES, *(GRADES if is_grade else ())]
    for words in known:
        low = re.sub(rf"\b(?:{words})\b" if words is not CLAUSE_END else words, " ", low)
    return tuple(word for word in re.findall(r"[^\W\d]+", low) if word not in PLAIN_WORDS)


def _find(words: str, text: str) -> list[str]:
    return [match[0] for match in re.finditer(rf"\b(?:{words})\b", text)]


def _take(words: str, text: str) -> tuple[int, str]:
    rest, count = re.subn(rf"\b(?:{words})\b", " ", text)
    return count, rest
