"""The model registry: put a package in under a name and an alias, fetch it back, checked.

Fetching never imports MLflow in the calling process, so that a service stays small: an MLflow
server is asked by plain REST, a database through a child process (``pipeline.tracking.fetch``).
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from data_schemas.errors import TrackingError
from data_schemas.files import sha256_of_file, write_text
from pipeline.tracking import rest
from pipeline.tracking.records import NOTE, RECORD_TAG
from pipeline.tracking.store import (
    SERVER_SCHEMES,
    check_uri,
    open_client,
    redacted,
    translated,
)

SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
SIGNATURE_TAG = "hilum.signature"
MODEL_URI = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
PACKAGE_TAG = "hilum.package_sha256"


@dataclass(frozen=True, slots=True)
class FetchedPackage:
    """A model package on disk, every file checked against its digest."""

    folder: Path
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a ``models:/`` address asks for: a version, or an alias to look up."""

    name: str
    alias: str
    version: str


def parse_model_uri(model_uri: str) -> Wanted:
    """Read ``models:/NAME@alias`` or ``models:/NAME/3``.

    Raises
    ------
    TrackingError
        If it is neither.
    """
    match = MODEL_URI.fullmatch(model_uri)
    if match is None:
        raise TrackingError(
            f"`{model_uri}` is not a registry address",
            mend="write models:/NAME@alias or models:/NAME/3",
        )
    return Wanted(match["name"], match["alias"] or "", match["version"] or "")


def register(uri: str, run_id: str, folder: Path, name: str, alias: str) -> str:
    """Put the package in ``folder`` into the registry as the next version of ``name``.

    The files become an MLflow logged model of the run, the version points at it, ``alias`` points
    at the version. The version's tags say who held the alias before, when it moved and which
    digest was promoted: MLflow itself keeps no history of aliases.

    Returns
    -------
    str
        The new version's number.

    Raises
    ------
    TrackingError
        If the folder is no package, the name or alias can't be used, or the store refuses.
    """
    sums = folder / SUMS
    if not sums.is_file():
        raise TrackingError(f"no {SUMS}: this is not a model package", where=folder)
    _check_names(name, alias)
    digest = sha256_of_file(sums)
    client = open_client(uri)
    with translated(uri):
        model_id = _log_model(client, run_id, folder, name, digest)
        if not client.search_registered_models(filter_string=f"name = '{name}'"):
            client.create_registered_model(name, tags={"hilum.kind": "model package"})
        version = _create_version(client, uri, name, model_id, run_id)
        before = client.get_registered_model(name).aliases.get(alias, "")
        client.set_registered_model_alias(name, alias, version)
        note = client.get_run(run_id).data.tags.get(NOTE, "")
        if note:  # what a reviewer reads on the run's page stands on the version's, too
            client.update_model_version(name, version, note)
        signature = folder / SIGNATURE
        if signature.is_file():
            text = signature.read_text(encoding="ascii").strip()
            client.set_model_version_tag(name, version, SIGNATURE_TAG, text)
        for key, value in {
            PACKAGE_TAG: digest,
            "hilum.promoted.alias": alias,
            "hilum.promoted.at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "hilum.promoted.by_run": run_id,
            "hilum.promoted.instead_of": str(before),
        }.items():
            client.set_model_version_tag(name, version, key, value)
    return version


def fetch_package(model_uri: str, tracking_uri: str, folder: Path) -> FetchedPackage:
    """Bring the package behind ``model_uri`` to ``folder/NAME-VERSION`` and check every file.

    A package that already lies there unharmed is not fetched again.

    Raises
    ------
    TrackingError
        If the store can't be reached, has no such model, or a file doesn't match its digest.
    """
    wanted = parse_model_uri(model_uri)
    check_uri(tracking_uri)
    if urlsplit(tracking_uri).scheme in SERVER_SCHEMES:
        return _fetch_by_rest(wanted, tracking_uri, folder)
    # a bare -m: the child must find the packages where this process found them
    place = str(folder.absolute())  # the child runs in another folder
    words = [sys.executable, "-m", "pipeline.tracking.fetch", model_uri, tracking_uri, place]
    root = Path(__file__).resolve().parents[2]
    child = subprocess.run(words, capture_output=True, text=True, cwd=root, check=False)  # noqa: S603 - our own module
    if child.returncode != 0:
        raise _told_by(child.stderr, tracking_uri)
    answer = json.loads(child.stdout.splitlines()[-1])
    return FetchedPackage(Path(answer["folder"]), answer["name"], answer["version"])


def version_behind(model_uri: str, tracking_uri: str) -> tuple[str, str]:
    """Return the version that ``model_uri`` names now and its package's digest; one small request.

    Raises
    ------
    TrackingError
        If the address is no MLflow server's, it doesn't answer, or it has no such model.
    """
    wanted = parse_model_uri(model_uri)
    if urlsplit(tracking_uri).scheme not in SERVER_SCHEMES:
        raise TrackingError("an alias can be followed on an MLflow server only")
    mlflow = rest.Server(tracking_uri)
    found = mlflow.version_of_alias(wanted.name, wanted.alias)
    if found is None:
        raise _no_such_model(model_uri, tracking_uri)
    return found.version, found.tags.get(PACKAGE_TAG, "")


def fetch_with_client(model_uri: str, tracking_uri: str, folder: Path) -> FetchedPackage:
    """Fetch through MLflow's own client; what the child process runs. Raises as fetch_package."""
    wanted = parse_model_uri(model_uri)
    client = open_client(tracking_uri)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        if wanted.alias:
            found = client.get_model_version_by_alias(wanted.name, wanted.alias)
        else:
            found = client.get_model_version(wanted.name, wanted.version)
    except MlflowException as error:
        raise _no_such_model(model_uri, tracking_uri) from error
    target = folder.absolute() / f"{found.name}-{found.version}"
    digest = found.tags.get(PACKAGE_TAG, "")
    if not _is_whole(target, digest):
        with translated(tracking_uri), tempfile.TemporaryDirectory() as folder_of_all:
            source = client.get_model_version_download_uri(found.name, found.version)
            lies = Path(download_artifacts(artifact_uri=source, dst_path=folder_of_all))
            with _arriving(target) as part:
                check_package(lies, digest)
                for name in (SUMS, *listed_files((lies / SUMS).read_text(encoding="utf-8"))):
                    shutil.move(lies / name, part / name)
    _put_signature(target, found.tags)
    return FetchedPackage(target, found.name, str(found.version))


def keep_signature(uri: str, name: str, version: str, signature: str) -> None:
    """Keep the signature of a version's package as its tag.

    Raises
    ------
    TrackingError
        If the store refuses.
    """
    client = open_client(uri)
    with translated(uri):
        client.set_model_version_tag(name, version, SIGNATURE_TAG, signature)


def _put_signature(target: Path, tags: Mapping[str, str]) -> None:
    # a tag may come, change and go while the files stay the same
    if tags.get(SIGNATURE_TAG):
        write_text(target / SIGNATURE, tags[SIGNATURE_TAG] + "\n")
    else:
        (target / SIGNATURE).unlink(missing_ok=True)


def check_package(folder: Path, digest: str) -> None:
    """Check every file named in ``SHA256SUMS``, and that list itself against ``digest`` if given.

    Raises
    ------
    TrackingError
        If a file is missing, altered, or the package isn't the one that was registered.
    """
    sums = folder / SUMS
    if not sums.is_file():
        raise TrackingError(f"the registered model has no {SUMS}: it is not a model package")
    if digest and sha256_of_file(sums) != digest:
        raise TrackingError("the package is not the one that was registered (digest differs)")
    for name, expected in listed_files(sums.read_text(encoding="utf-8")).items():
        file = folder / name
        if not file.is_file():
            raise TrackingError(f"{name} is missing from the registered package")
        if sha256_of_file(file) != expected:
            raise TrackingError(f"{name} differs from its digest in {SUMS}")


def listed_files(sums: str) -> dict[str, str]:
    """Parse ``SHA256SUMS`` (as ``sha256sum`` writes it) to file name -> digest.

    Raises
    ------
    TrackingError
        If a line is malformed or names a path outside the folder.
    """
    files: dict[str, str] = {}
    for line in sums.splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *]([A-Za-z0-9._-]+)", line)
        if match is None or match[2].startswith("."):
            raise TrackingError(f"{SUMS} has a line that is not `digest  file`")
        files[match[2]] = match[1]
    return files


def _fetch_by_rest(wanted: Wanted, server: str, folder: Path) -> FetchedPackage:
    mlflow = rest.Server(server)
    if wanted.alias:
        found = mlflow.version_of_alias(wanted.name, wanted.alias)
    else:
        found = mlflow.version(wanted.name, wanted.version)
    if found is None:
        raise _no_such_model(f"{wanted.name} {wanted.alias or wanted.version}", server)
    target = folder.absolute() / f"{found.name}-{found.version}"
    digest = found.tags.get(PACKAGE_TAG, "")
    if not _is_whole(target, digest):
        root = mlflow.artifact_root(found.name, found.version)
        with _arriving(target) as part:
            mlflow.download(f"{root}/{SUMS}", part / SUMS)
            for name in listed_files((part / SUMS).read_text(encoding="utf-8")):
                mlflow.download(f"{root}/{name}", part / name)
            check_package(part, digest)
    _put_signature(target, found.tags)
    return FetchedPackage(target, found.name, found.version)


@contextmanager
def _arriving(target: Path) -> Iterator[Path]:
    """Yield a folder that takes ``target``'s place only when the block ended well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=".fetch-"))
    try:
        yield part
        shutil.rmtree(target, ignore_errors=True)
        part.chmod(0o755)
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_whole(folder: Path, digest: str) -> bool:
    if not digest or not folder.is_dir():
        return False
    try:
        check_package(folder, digest)
    except TrackingError:
        return False
    return True


def _check_names(name: str, alias: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
        raise TrackingError(
            f"`{name}` can't be a model's name", mend="use letters, digits, `-`, `_` and `.`"
        )
    reserved = alias == "latest" or re.fullmatch(r"v\d+", alias)
    if reserved or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,60}", alias):
        raise TrackingError(
            f"`{alias}` can't be an alias", mend="use a word such as champion or challenger"
        )


def _log_model(client: object, run_id: str, folder: Path, name: str, digest: str) -> str:
    from mlflow.entities import LoggedModelOutput
    from mlflow.tracking import MlflowClient

    assert isinstance(client, MlflowClient)  # noqa: S101 - for the type checker
    run = client.get_run(run_id)
    record = run.data.tags.get(RECORD_TAG, "")
    # the run's own record, unless it became another version already: versions don't change
    if record and PACKAGE_TAG not in client.get_logged_model(record).tags:
        client.log_model_artifacts(record, str(folder))
        client.set_logged_model_tags(record, {PACKAGE_TAG: digest})
        return str(record)
    experiment_id = run.info.experiment_id
    # "external" is MLflow's word for a model in no flavour of its own: ours is ONNX and documents
    model = client.create_logged_model(
        experiment_id,
        name=name.replace(".", "-"),
        source_run_id=run_id,
        tags={"mlflow.model.isExternal": "true", PACKAGE_TAG: digest},
        model_type="hilum-package",
    )
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def _create_version(client: object, uri: str, name: str, model_id: str, run_id: str) -> str:
    import mlflow
    from mlflow.tracking import MlflowClient

    assert isinstance(client, MlflowClient)  # noqa: S101 - for the type checker
    # MLflow's SQL registry looks the logged model up through the process-wide address, not
    # through the client it is called on; without this it asks ./mlflow.db
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        created = client.create_model_version(
            name, f"models:/{model_id}", run_id=run_id, model_id=model_id
        )
    finally:
        mlflow.set_tracking_uri(before)
    return str(created.version)


def _no_such_model(model_uri: str, tracking_uri: str) -> TrackingError:
    return TrackingError(
        f"the registry has no `{model_uri}`",
        where=redacted(tracking_uri),
        mend="register it: hilum register RUN --name NAME --alias champion",
    )


def _told_by(stderr: str, tracking_uri: str) -> TrackingError:
    lines = [line for line in stderr.splitlines() if line.startswith("{")]
    try:
        told = json.loads(lines[-1])
        return TrackingError(told["what"], where=told["where"], mend=told["mend"])
    except (IndexError, ValueError, KeyError):
        return TrackingError(
            "the child process that asks the registry failed",
            where=redacted(tracking_uri),
            mend="is the extra `train` (MLflow) installed here? An http(s) server needs none of it",
        )


def as_json(package: FetchedPackage) -> str:
    """Return the answer as the child process prints it."""
    return json.dumps({**asdict(package), "folder": str(package.folder)})
