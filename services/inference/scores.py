"""The routes that answer scores: one image, the images of one patient, many independent images."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from data_schemas.document import Document
from data_schemas.patient import PatientScore, SideScore
from data_schemas.score import Score
from data_schemas.terms import Laterality
from pipeline.model.decision import decide_patient
from pipeline.model.wanted import SCORE_ALONE, Wanted
from services.inference.answers import BatchAnswer, ImageAnswer
from services.inference.body import File
from services.inference.desk import Desk
from services.inference.engine import Loaded
from services.inference.examples import batch_example, patient_example, score_example
from services.inference.openapi import BATCH_BODY, PATIENCE, SCORE_BODY, json_answer, problems
from services.inference.problems import Refusal, problem_of

Evidence = Literal["png", "array", "both"]

_SIDES: dict[str, Laterality] = {"l": "L", "left": "L", "r": "R", "right": "R"}
"""Name of a form's part -> the side that its image shows."""


def wanted_of(
    evidence: Annotated[
        bool | Evidence,
        Query(
            description="also answer the evidence maps: `png` drawn over the original picture, "
            "`array` as numbers with their place on it, `both` (or `true`)"
        ),
    ] = False,
    embedding: Annotated[
        bool, Query(description="also answer what the network saw, a vector of numbers")
    ] = False,
    points: Annotated[
        Literal["all"] | None,
        Query(description="`all`: the state of every finding at every operating point"),
    ] = None,
) -> Wanted:
    """Return what a query asks for."""
    return Wanted(
        arrays=evidence in (True, "array", "both"),
        pictures=evidence in (True, "png", "both"),
        embedding=embedding,
        points=points == "all",
    )


class Direct(APIRoute):
    """A route that calls its endpoint with the request and nothing else where the client set no option.

    What else a route does (dependencies, parameters, two exit stacks) is a third of a millisecond of
    processor time: a hundredth of what an image costs.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the endpoint; with a query, or for another method than it takes, as any route."""
        if scope["query_string"] or scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def score_routes(desk: Desk) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["scores"])
    package = desk.engine.package

    async def score(
        request: Request, wanted: Annotated[Wanted, Depends(wanted_of)] = SCORE_ALONE
    ) -> Response:
        """Score the file in the body: DICOM, JPEG, PNG or TIFF, recognised by its first bytes.

        A form with several files is one patient: both eyes, two views. Each image gets its own
        score, and the patient an answer by the rule that the model's card names. The name of a part
        may tell the side (`left`, `right`) where the file doesn't. If one file is refused, all are.

        Files are decoded, prepared and scored exactly as the model's training images were; they
        are neither stored nor logged.
        """
        deadline = desk.deadline(request)
        answer: Document
        with desk.engine.figures.stage("receive") as received:
            async with desk.bodies.files(request) as files:
                received()
                if len(files) == 1:
                    answer = await desk.one(request, files[0].data, wanted, deadline)
                else:
                    of, images = desk.loaded(), [file.data for file in files]
                    scores = await desk.every(request, images, wanted, deadline=deadline, of=of)
                    answer = patient_of(of, files, scores)
        with desk.engine.figures.stage("answer"):
            return answered(answer)

    router.add_api_route(
        "/v1/scores",
        score,
        methods=["POST"],
        route_class_override=Direct,
        summary="Score one image, or the images of one patient",
        operation_id="score",
        responses={
            200: json_answer(
                "The score; of several images, the patient's answer with the scores of all.",
                "Score",
                "PatientScore",
                one=score_example(package),
                several=patient_example(package),
            ),
            **problems(400, 408, 413, 415, 422, 500, 503),
        },
        openapi_extra={"requestBody": SCORE_BODY, "parameters": [PATIENCE]},
        response_class=Response,
    )

    @router.post(
        "/v1/scores:batch",
        summary="Score many independent images",
        operation_id="score_batch",
        responses={
            200: json_answer(
                "One answer for each file, in order: its score, or the problem with it.",
                "BatchAnswer",
                several=batch_example(package),
            ),
            **problems(400, 408, 413, 422, 500, 503),
        },
        openapi_extra={"requestBody": BATCH_BODY, "parameters": [PATIENCE]},
        response_class=Response,
    )
    async def batch(request: Request, wanted: Annotated[Wanted, Depends(wanted_of)]) -> Response:
        """Score the files of a form, each for itself.

        A file that is refused doesn't keep the others from being scored: its place in the answer
        holds the problem. What the service as a whole can't do (busy, not ready, too late) is
        answered once, for all.
        """
        deadline = desk.deadline(request)
        with desk.engine.figures.stage("receive") as received:
            async with desk.bodies.files(request, form=True) as files:
                received()
                images = [file.data for file in files]
                answers = await desk.each(request, images, wanted, deadline=deadline)
        name = request.state.request_id
        with desk.engine.figures.stage("answer"):
            answer = BatchAnswer(
                answers=tuple(
                    ImageAnswer(score=one)
                    if isinstance(one, Score)
                    else ImageAnswer(problem=problem_of(one, name))
                    for one in answers
                )
            )
            return answered(answer)

    return router


def answered(document: BaseModel) -> Response:
    """Return an answer about images: nobody on the way keeps it."""
    return Response(
        document.model_dump_json(),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def patient_of(of: Loaded, files: list[File], scores: list[Score]) -> PatientScore:
    """Return the answer about the patient whose files these are.

    Raises
    ------
    Refusal
        ``INVALID_REQUEST`` if a part's name and its file say different sides.
    """
    card = of.package.card
    sided = [
        (_side_of(place, file, score), score)
        for place, (file, score) in enumerate(zip(files, scores, strict=True), start=1)
    ]
    decision = decide_patient(card, sided)
    return PatientScore(
        aggregate=card.aggregate,
        verdict=decision.verdict,
        primary=card.primary,
        operating_point=scores[0].operating_point,
        threshold=scores[0].threshold,
        findings=decision.findings,
        sides=tuple(
            SideScore(
                laterality=side.laterality,
                images=side.images,
                verdict=side.verdict,
                findings=side.findings,
            )
            for side in decision.sides
        ),
        images=tuple(scores),
    )


def _side_of(place: int, file: File, score: Score) -> Laterality:
    told, known = _SIDES.get(file.name.lower()), score.image.laterality
    if told is None or known in ("U", told):
        return told or known
    raise Refusal(
        "INVALID_REQUEST",
        f"Image {place} is sent as {told}, its own header says {known}.",
        "send each file under the side that it shows, or under no side",
    )
