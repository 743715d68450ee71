"""The package that goes to the registry: the run's own, its card completed by the evaluation."""

from pathlib import Path

from data_schemas.card import Evaluation
from data_schemas.errors import HilumError, TrackingError, UsageError
from pipeline.model.package import Package, open_package, with_evaluation
from pipeline.tracking.finding import download

EVALUATION = "evaluation.json"
UNMEASURED = "registered without an evaluation of the test split"


def final_package(
    run_id: str,
    tracking_uri: str,
    scratch: Path,
    *,
    name: str = "",
    without_evaluation: bool = False,
) -> Package:
    """Fetch a run's package and its evaluation; return the package whose card holds both.

    Parameters
    ----------
    run_id, tracking_uri
        Where the run is.
    scratch
        An empty folder for the two packages.
    name
        The model's name in the registry, which its scores carry; empty: the data set's.
    without_evaluation
        Go on without one, and say so in the card's notes.

    Raises
    ------
    UsageError
        If the run was not evaluated, or another package than the run's was measured.
    PackageError, TrackingError
        If the package is unsound, or MLflow can't be used.
    """
    package = open_package(download(tracking_uri, run_id, "package", scratch / "run"))
    evaluation = _evaluation(run_id, tracking_uri, scratch)
    if evaluation is None:
        if not without_evaluation:
            raise UsageError(
                f"run {run_id} was not evaluated",
                mend=f"hilum evaluate {run_id}   (or --without-evaluation, which the card will say)",
            )
        return with_evaluation(package, None, scratch / "final", name=name, notes=(UNMEASURED,))
    if evaluation.package_sha256 != package.sha256:
        raise UsageError(
            f"the evaluation is of package {evaluation.package_sha256[:12]}, "
            f"the run holds {package.sha256[:12]}",
            mend=f"hilum evaluate {run_id}",
        )
    return with_evaluation(package, evaluation, scratch / "final", name=name)


def _evaluation(run_id: str, tracking_uri: str, scratch: Path) -> Evaluation | None:
    try:
        path = download(tracking_uri, run_id, EVALUATION, scratch / "evaluation")
    except TrackingError:
        # the package came from the same run a moment ago: what is missing is the evaluation
        return None
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise HilumError(
            "is not an evaluation that this hilum reads",
            where=f"run {run_id}: {EVALUATION}",
            mend=f"hilum evaluate {run_id}",
        ) from error
