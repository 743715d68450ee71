"""DICOMweb (PS3.18): search by QIDO-RS, retrieve by WADO-RS, the bytes as they are stored.

The address is ``dicomweb+https://host/path?Modality=OP&StudyDate=20200101-20201231``. What stands after
the question mark are attributes of study, series or instance, as QIDO-RS takes them.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from pydicom.datadict import keyword_for_tag

from data_schemas.errors import DatasetError, ImageError, UsageError
from data_schemas.progress import Progress
from pipeline.ingest.records import SourceFile
from pipeline.ingest.sources.listing import FIRST_WAIT_S, Access, Listing, finished, patiently
from pipeline.ingest.sources.multipart import first_part, limited

PREFIX = "dicomweb+"

_REQUESTS = 8
_PAGE = 500
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
# 500 is not among them: an archive answers it when it will never answer otherwise
_TRANSIENT = (408, 429, 502, 503, 504)
_SERIES_KEYS = ("Modality", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "BodyPartExamined", "Laterality", "Manufacturer", "ManufacturerModelName", "ProtocolName", "StationName", "InstitutionName")  # fmt: skip
_INSTANCE_KEYS = ("SOPInstanceUID", "SOPClassUID", "InstanceNumber", "NumberOfFrames", "Rows", "Columns")  # fmt: skip

_TAG = re.compile(r"[0-9A-Fa-f]{8}")

Found = dict[str, Any]
Search = Callable[..., list[Found]]


@dataclass(frozen=True, slots=True)
class _Query:
    """What to search for, by the level that knows the attribute."""

    study: dict[str, str]
    series: dict[str, str]
    instance: dict[str, str]


def open_dicomweb(address: str, progress: Progress, access: Access) -> Listing:
    """List the instances of a DICOMweb service that match a query.

    Raises
    ------
    UsageError
        If the address can't be one, holds a password, or the client is not installed.
    DatasetError
        If the service doesn't answer, refuses, or nothing matches.
    """
    base, query = _parsed(address)
    files: list[SourceFile] = []
    try:
        client = _client(base, access)
        studies = sorted(_pages(client.search_for_studies, _STUDY, query.study))
        with ThreadPoolExecutor(_REQUESTS) as pool:
            ahead = pool.map(partial(_instances, client, query), studies)
            for done, found in enumerate(ahead, start=1):
                files += [_file(base, access, place) for place in found]
                progress(done, len(studies), "searching")
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise DatasetError(
            f"the archive can't be searched ({_cause(error)})",
            where=base,
            mend="check the address, the token or password, and that it speaks DICOMweb",
        ) from None  # the address in the cause may hold identifiers
    if not files:
        raise DatasetError(
            "no instance matches the query", where=base, mend="search with fewer attributes"
        )
    return Listing("dicomweb", finished(files, access.most_bytes), requests=_REQUESTS)


def _parsed(address: str) -> tuple[str, _Query]:
    parts = urlsplit(address.removeprefix(PREFIX))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            "is no address of DICOMweb", mend="write dicomweb+https://host/path?Modality=OP"
        )
    if parts.username or parts.password:
        raise UsageError(
            "an address must not hold a password",
            mend="use HILUM_DICOMWEB_USER and HILUM_DICOMWEB_PASSWORD",
        )
    query = _Query({}, {}, {})
    for given, value in parse_qsl(parts.query, keep_blank_values=True):
        if not value:
            raise UsageError(f"`{given}` in the address has no value")
        name = (keyword_for_tag(given) if _TAG.fullmatch(given) else "") or given
        if name in _SERIES_KEYS:
            query.series[name] = value
        elif name in _INSTANCE_KEYS:
            query.instance[name] = value
        else:
            query.study[name] = value
    if "Modality" in query.series:
        # spares the studies without such a series; those that have others, too, are sorted out below
        query.study.setdefault("ModalitiesInStudy", query.series["Modality"])
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")), query


def _instances(client: Any, query: _Query, study: str) -> list[tuple[str, str, str]]:
    places: list[tuple[str, str, str]] = []
    search = partial(client.search_for_series, study)
    for series in sorted(_pages(search, _SERIES, query.series)):
        find = partial(client.search_for_instances, study, series)
        places += [(study, series, uid) for uid in sorted(_pages(find, _INSTANCE, query.instance))]
    return places


def _pages(search: Search, tag: str, filters: dict[str, str]) -> Iterator[str]:
    """Yield the UIDs of all pages, each once.

    It ends with a page that brings nothing new: servers answer fewer than ``limit``, or the same page
    for every ``offset``.
    """
    seen: set[str] = set()
    offset = 0
    while True:
        page = search(limit=_PAGE, offset=offset, search_filters=filters)
        uids = [str(value) for found in page for value in found.get(tag, {}).get("Value", ())[:1]]
        new = [uid for uid in dict.fromkeys(uids) if uid not in seen]
        yield from new
        if not new:
            return
        seen.update(new)
        offset += len(page)


def _file(base: str, access: Access, place: tuple[str, str, str]) -> SourceFile:
    return SourceFile("/".join(place), partial(retrieve, base, access, *place))


def retrieve(base: str, access: Access, study: str, series: str, instance: str) -> bytes:
    """Retrieve one instance as it is stored: any transfer syntax will do (PS3.18 8.7.3.5.2).

    Raises
    ------
    ImageError
        UNREADABLE, TRUNCATED or TOO_LARGE.
    """
    import requests
    from urllib3.exceptions import HTTPError as BrokenBody

    uids = [quote(uid, safe="") for uid in (study, series, instance)]
    url = f"{base}/studies/{uids[0]}/series/{uids[1]}/instances/{uids[2]}"
    try:
        broken = (requests.exceptions.ChunkedEncodingError, BrokenBody)
        return patiently(partial(_get, url, access), access.attempts, again=broken)
    except requests.HTTPError as error:
        status = 0 if error.response is None else error.response.status_code
        vanished = "the instance vanished after it was listed"
        what = f"the archive answers {status} for this instance"
        raise ImageError("UNREADABLE", vanished if status in (404, 410) else what) from None
    except (OSError, BrokenBody) as error:
        what = f"the archive doesn't give the instance ({_cause(error)})"
        raise ImageError("UNREADABLE", what) from None  # the cause holds UIDs


def _get(url: str, access: Access) -> bytes:
    headers = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    session = _session(access)
    with session.get(url, headers=headers, stream=True, timeout=access.timeout_s) as response:
        response.raise_for_status()
        body = limited(response.iter_content(2**20), access.most_bytes)
        return first_part(body, response.headers.get("Content-Type", ""))


def _client(base: str, access: Access) -> Any:
    try:
        from dicomweb_client.api import DICOMwebClient
    except ImportError as error:
        raise UsageError(
            "DICOMweb needs a package that is not installed", mend="pip install 'hilum[sources]'"
        ) from error
    # it logs UIDs at INFO
    logging.getLogger("dicomweb_client").setLevel(logging.ERROR)
    client = DICOMwebClient(
        base, session=_session(access), timeout=access.timeout_s, permissive_uid=True
    )
    client.set_http_retry_params(
        retry=False
    )  # the session tries again, after lost connections, too
    return client


def _session(access: Access) -> Any:
    # connections stay open between two retrievals of one process
    secrets = (access.token, access.user, access.password)
    return _connected(os.getpid(), secrets, access.ca_file, access.attempts)


@lru_cache(maxsize=4)
def _connected(_: int, secrets: tuple[str, str, str], ca_file: str, attempts: int) -> Any:
    import requests
    from urllib3.util import Retry

    session = requests.Session()
    token, user, password = secrets
    if token:
        session.auth = partial(_bear, token)
    elif user:
        session.auth = (user, password)
    if ca_file:
        session.verify = ca_file
    retry = Retry(
        total=attempts - 1,
        backoff_factor=FIRST_WAIT_S,
        status_forcelist=_TRANSIENT,
        allowed_methods=("GET",),
        raise_on_status=False,
    )
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=2 * _REQUESTS, max_retries=retry)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _bear(token: str, request: Any) -> Any:
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _cause(error: Exception) -> str:
    """Return what went wrong without the address, which may hold identifiers."""
    response = getattr(error, "response", None)
    return type(error).__name__ if response is None else f"HTTP {response.status_code}"
