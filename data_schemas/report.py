"""The report's documents: the Vocabulary it may speak, the Writer that was trained on it, the Draft."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from data_schemas.document import Document, Part
from data_schemas.score import ModelIdentity
from data_schemas.terms import FindingState, Laterality, Verdict

Phrases = dict[str, tuple[str, ...]]
"""Style -> the sentences of that style that say the same thing."""

OverallState = Literal["present", "present_refer", "uncertain", "absent", "absent_but_others"]
"""What the impression says of the primary finding. ``present_refer``: present, and a reason to refer;
``absent_but_others``: absent, while other findings are not."""

BANNER = "DRAFT - written by software, not read or signed by a clinician. Not for clinical use."
"""The first line of every export of a draft."""


class Codes(Part):
    """Codes of a concept in public terminologies; null until read in a licensed release."""

    sct: str | None = Field(default=None, description="SNOMED CT")
    radlex: str | None = None


class FindingWords(Part):
    """How one finding is spoken of."""

    order: int
    name: str = Field(description="as it stands inside a sentence, such as `new vessels`")
    listed: bool = Field(default=False, description="neighbours of one state may share a sentence")
    always: bool = Field(
        default=False, description="a score without it gives `was not assessed`, not silence"
    )
    refers: bool = Field(default=False, description="its presence is a reason to refer by itself")
    codes: Codes = Codes()
    phrases: dict[FindingState, Phrases]


class GradeWords(Part):
    """How a label of ordered classes is spoken of."""

    label: str
    sure: float = Field(
        ge=0, le=1, description="the most probable class is stated from this probability on"
    )
    at_least: dict[str, int] = Field(
        description="finding -> lowest grade that means it is present; a grade that contradicts "
        "a finding of the same score is not stated"
    )
    classes: tuple[Phrases, ...] = Field(description="in the order of the grades, from 0")
    uncertain: Phrases


class Notices(Part):
    """What a draft without findings says. Always in these words."""

    insufficient: str
    reasons: dict[str, str] = Field(
        description="what a quality reason says before its colon -> sentence; `other`: none is given"
    )
    further: str = Field(
        default="There is a further reason, which the score names.",
        description="beside the reasons that have a sentence, or alone: one that has none",
    )
    insufficient_advice: str
    out_of_scope: str
    out_of_scope_advice: str

    @model_validator(mode="after")
    def _has_other(self) -> Self:
        if "other" not in self.reasons:
            raise ValueError("reasons needs the entry `other`")
        return self


class Vocabulary(Document):
    """Everything that a draft can say, in our own sentences: ``configs/reports/*.yaml``."""

    VERSION: ClassVar[int] = 1

    name: str
    language: str = "en-GB"
    styles: tuple[str, ...] = Field(min_length=1)
    fixed_style: str = Field(description="the style of drafts written without a writer")
    eye: dict[Literal["L", "R"], Phrases]
    quality: dict[Literal["sufficient", "not_assessed"], Phrases]
    findings: dict[str, FindingWords]
    lists: dict[FindingState, Phrases] = Field(
        default={}, description="sentences over several findings: `{and}`, `{And}`, `{or}`"
    )
    grade: GradeWords | None = None
    overall: dict[OverallState, Phrases] = Field(description="`{name}`: the primary finding")
    notices: Notices
    state_codes: dict[str, Codes] = Field(default={}, description="codes of states and sides")

    @model_validator(mode="after")
    def _styles_are_known(self) -> Self:
        if self.fixed_style not in self.styles:
            raise ValueError(f"fixed_style {self.fixed_style!r} is none of {self.styles}")
        groups = [*self.eye.values(), *self.quality.values(), *self.lists.values()]
        groups += [*self.overall.values()]
        groups += [g for words in self.findings.values() for g in words.phrases.values()]
        groups += [] if self.grade is None else [*self.grade.classes, self.grade.uncertain]
        for phrases in groups:
            if set(phrases) != set(self.styles) or not all(phrases.values()):
                raise ValueError(
                    f"each state needs sentences in every style of {self.styles}, got {phrases}"
                )
        return self


class WriterPlan(Document):
    """How a writer is trained. Same plan, vocabulary and machine: same weights."""

    VERSION: ClassVar[int] = 1

    layers: int = Field(default=3, ge=1)
    heads: int = Field(default=3, ge=1)
    width: int = Field(default=48, ge=1, description="a multiple of heads")
    epochs: int = Field(default=6, ge=1)
    reports: int = Field(default=600, ge=1, description="fresh simulated reports in every epoch")
    batch: int = Field(default=12, ge=1)
    rate: float = Field(default=8e-3, gt=0, description="highest learning rate (AdamW, one cycle)")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of steps")
    weight_decay: float = Field(default=0.1, ge=0)
    gradient_norm: float = Field(default=1.0, gt=0, description="clip at this norm")
    unseen: int = Field(
        default=64, ge=1, description="simulated reports, never trained on, that figures come from"
    )
    seed: int = Field(default=0, ge=0)
    threads: int = Field(
        default=1, ge=0, description="a network this small gains nothing from more; 0: all cores"
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class WriterCard(Document):
    """``writer.json``: what the writer speaks, how large it is and how well it learned."""

    VERSION: ClassVar[int] = 1

    hilum_version: str = ""
    run_id: str = ""
    plan: WriterPlan
    vocabulary_name: str
    vocabulary_sha256: str
    tokens: tuple[str, ...] = Field(description="token number -> word")
    positions: int = Field(description="longest text, in tokens, with its prompt")
    parameters: int
    onnx_sha256: str
    weights_sha256: str
    onnx_max_logit_difference: float = Field(ge=0, description="ONNX Runtime against torch")
    figures: dict[str, float] = Field(description="as logged at the end of training")


class Evidence(Part):
    """One thing that the score says and a sentence states."""

    subject: str = Field(description="eye, quality, grade, overall, or a finding's name")
    state: str
    probability: float | None = Field(default=None, description="calibrated")
    low: float | None = None
    high: float | None = None


class Sentence(Part):
    """One sentence and all that it rests on. ``style`` is empty for notices."""

    text: str
    section: Literal["eye", "quality", "findings", "impression", "notice"]
    style: str = ""
    evidence: tuple[Evidence, ...]
    model_name: str
    model_version: str
    package_sha256: str


class Draft(Document):
    """An unsigned report about one image. ``text`` is its sentences joined by single spaces."""

    VERSION: ClassVar[int] = 1

    status: Literal["draft"] = "draft"
    banner: str = BANNER
    verdict: Verdict
    laterality: Laterality
    text: str
    sentences: tuple[Sentence, ...]
    source: Literal["writer", "fixed"] = Field(description="who chose among the paraphrases")
    fallback_reason: str = Field(
        default="",
        description="why the fixed sentences stand in for the writer's; empty: they don't",
    )
    image_sha256: str = Field(description="SHA-256 of the image's bytes")
    score_sha256: str = Field(description="digest of the score that the draft states")
    model: ModelIdentity
    vocabulary_name: str
    vocabulary_sha256: str
    writer_sha256: str = Field(default="", description="digest of the writer's card; empty: none")
    hilum_version: str = ""

    @model_validator(mode="after")
    def _text_is_its_sentences(self) -> Self:
        if self.text != " ".join(sentence.text for sentence in self.sentences):
            raise ValueError("text is not the sentences joined by single spaces")
        if self.banner != BANNER:
            raise ValueError("the banner of a draft can't be changed")
        return self
