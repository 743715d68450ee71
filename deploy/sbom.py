# ruff: noqa: INP001 - a script, no package
"""Print the bill of materials of an image: CycloneDX 1.6, JSON; standard library only.

python deploy/sbom.py deploy/serve.lock SITE_PACKAGES [/var/lib/dpkg/status] > sbom.cdx.json

It names the interpreter, what lies in SITE_PACKAGES, and the Debian packages. The same image gives the
same bytes: the time is SOURCE_DATE_EPOCH's, or left out. It fails if a package is not the one that the lock
names: what was checked against a hash is then not what is there.
"""

import hashlib
import json
import os
import platform
import re
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

OWN = "hilum"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)

Component = dict[str, Any]


def plain(name: str) -> str:
    """Return a package's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(lock: str) -> dict[str, str]:
    """Return name -> version of a lock file."""
    return {plain(name): version for name, version in _PIN.findall(lock)}


def of_python(found: Distribution) -> Component:
    """Return an installed Python package."""
    name, version = plain(found.metadata["Name"]), found.version
    purl = f"pkg:pypi/{name}@{quote(version)}"
    component = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    licence = _licence(found.metadata)
    return component | ({"licenses": [licence]} if licence else {})


def _licence(metadata: Any) -> Component:
    expression = metadata.get("License-Expression") or ""
    if expression:
        return {"expression": expression}
    given = metadata.get("License") or ""
    if given and "\n" not in given:
        return {"license": {"name": given}}
    words = [line for line in metadata.get_all("Classifier") or () if line.startswith("License ::")]
    return {"license": {"name": words[0].rpartition(":: ")[2]}} if words else {}


def of_debian(status: str) -> Iterator[Component]:
    """Yield the installed Debian packages that dpkg's status file names."""
    for block in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", block, re.MULTILINE))
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={fields['Architecture']}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
        }


def main() -> None:
    """Print it, or end with what is wrong."""
    lock = Path(sys.argv[1]).read_text(encoding="utf-8")
    wanted = pinned(lock)
    there = {plain(found.metadata["Name"]): found for found in distributions(path=[sys.argv[2]])}
    own = there.pop(OWN)
    strange = sorted(
        f"{name} {found.version}"
        for name, found in there.items()
        if wanted.get(name) != found.version
    )
    if strange:
        sys.exit(f"error: not as {sys.argv[1]} names it: {', '.join(strange)}")
    version = platform.python_version()
    components = [
        {"type": "platform", "bom-ref": "cpython", "name": "cpython", "version": version},
        *(of_python(there[name]) for name in sorted(there)),
    ]
    for path in sys.argv[3:]:
        components += sorted(of_debian(Path(path).read_text()), key=lambda each: each["purl"])
    metadata: dict[str, Any] = {
        "component": of_python(own) | {"type": "application"},
        "properties": [
            {"name": "hilum:lock:sha256", "value": hashlib.sha256(lock.encode()).hexdigest()}
        ],
    }
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")  # noqa: TID251 - the convention of builds
    if epoch:
        metadata = {"timestamp": datetime.fromtimestamp(int(epoch), UTC).isoformat()} | metadata
    content = json.dumps([metadata, components], sort_keys=True)
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": metadata,
        "components": components,
    }
    print(json.dumps(bill, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
