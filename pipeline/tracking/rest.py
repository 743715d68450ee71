"""MLflow's REST interface, as much as fetching a registered model needs; standard library only."""

import base64
import json
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit
from urllib.request import url2pathname

from data_schemas.errors import TrackingError

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Version:
    """A model version as the registry describes it."""

    name: str
    version: str
    tags: dict[str, str]


class Server:
    """An MLflow tracking server at ``uri``; ``http://user:password@host`` logs in."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        user, at, host = parts.netloc.rpartition("@")
        self.root = parts._replace(netloc=host, query="", fragment="").geturl().rstrip("/")
        self._headers = {"Accept": "*/*"}
        if at:
            token = base64.b64encode(unquote(user).encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"

    def version_of_alias(self, name: str, alias: str) -> Version | None:
        """Return the version that ``alias`` points at, ``None`` if there is none."""
        return self._version("registered-models/alias", name=name, alias=alias)

    def version(self, name: str, version: str) -> Version | None:
        """Return one version, ``None`` if there is none."""
        return self._version("model-versions/get", name=name, version=version)

    def artifact_root(self, name: str, version: str) -> str:
        """Return where a version's files lie, as the server names the place."""
        tree = self._json("model-versions/get-download-uri", name=name, version=version)
        place = str((tree or {}).get("artifact_uri", ""))
        if not place:
            raise TrackingError(f"version {version} of {name} has no files", where=self.root)
        return place.rstrip("/")

    def download(self, place: str, target: Path) -> None:
        """Copy one artifact to ``target``.

        Raises
        ------
        TrackingError
            If the artifact lies where only MLflow's own client can go, or can't be read.
        """
        parts = urlsplit(place)
        if parts.scheme == "mlflow-artifacts":
            path = quote(parts.path.lstrip("/"))
            url = f"{self.root}/api/2.0/mlflow-artifacts/artifacts/{path}"
            with self._open(url) as answer, target.open("wb") as stream:
                try:
                    shutil.copyfileobj(answer, stream)
                except (OSError, HTTPException) as error:
                    raise TrackingError("a file broke off on its way", where=self.root) from error
        elif parts.scheme in ("", "file"):
            self._copy(Path(url2pathname(parts.path)), target)
        else:
            raise TrackingError(
                f"the server keeps its files in {parts.scheme}: and doesn't pass them on",
                where=self.root,
                mend="start it with --serve-artifacts (the default) and --artifacts-destination",
            )

    def _copy(self, source: Path, target: Path) -> None:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise TrackingError(
                "the server names a folder of its own machine, which can't be read from here",
                where=self.root,
                mend="start it with --serve-artifacts (the default) and --artifacts-destination",
            ) from error

    def _version(self, method: str, **query: str) -> Version | None:
        tree = self._json(method, **query)
        if tree is None:
            return None
        found = tree["model_version"]
        tags = {tag["key"]: tag.get("value", "") for tag in found.get("tags", [])}
        return Version(str(found["name"]), str(found["version"]), tags)

    def _json(self, method: str, **query: str) -> dict[str, Any] | None:
        url = f"{self.root}/api/2.0/mlflow/{method}?{urlencode(query)}"
        try:
            with self._open(url) as answer:
                tree: dict[str, Any] = json.load(answer)
                return tree
        except ValueError as error:
            raise TrackingError("the answer is not MLflow's", where=self.root) from error
        except _NotFoundError:
            return None

    def _open(self, url: str) -> HTTPResponse:
        request = urllib.request.Request(url, headers=self._headers)  # noqa: S310 - http(s) was checked
        try:
            answer: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
        except urllib.error.HTTPError as error:
            body = error.read(2000)
            if error.code in (400, 404) and _means_missing(body):
                raise _NotFoundError(url, error.code, "missing", error.headers, None) from error
            raise TrackingError(f"the server answers {error.code}", where=self.root) from error
        except (OSError, HTTPException) as error:
            raise TrackingError("no MLflow server answers", where=self.root) from error
        return answer


class _NotFoundError(urllib.error.HTTPError):
    """The server is well, but has no such thing."""


def _means_missing(body: bytes) -> bool:
    # an unknown alias is 400 INVALID_PARAMETER_VALUE "... alias ... not found", a version 404
    try:
        tree = json.loads(body)
    except ValueError:
        return False
    code, message = str(tree.get("error_code", "")), str(tree.get("message", ""))
    return code == "RESOURCE_DOES_NOT_EXIST" or "not found" in message
