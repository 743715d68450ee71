"""The PatientScore: the answer about a patient of whom several images came, beside each image's own."""

from typing import ClassVar

from pydantic import Field

from data_schemas.document import Document, Part
from data_schemas.score import FindingScore, Score
from data_schemas.terms import Aggregate, Laterality, Verdict


class SideScore(Part):
    """The answer about one side: one eye, one breast."""

    laterality: Laterality = Field(description="U: nobody said which side")
    images: tuple[int, ...] = Field(description="which of the request's images, from 0")
    verdict: Verdict
    findings: tuple[FindingScore, ...]


class PatientScore(Document):
    """Several images of one patient, one answer, by the rule that the card names."""

    VERSION: ClassVar[int] = 1

    aggregate: Aggregate = Field(
        description="how the images of one side became one probability; the patient's is the "
        "highest of the sides'"
    )
    verdict: Verdict = Field(
        description="positive if a side is; else not assessable if a side is; else indeterminate "
        "if a side is; else negative"
    )
    primary: str
    operating_point: str
    threshold: float = Field(description="`high` of the operating point of the primary label")
    findings: tuple[FindingScore, ...] = Field(
        description="`not_assessed` instead of `absent` while a side could not be judged"
    )
    sides: tuple[SideScore, ...]
    images: tuple[Score, ...] = Field(description="in the order in which the files came")
