"""Sign a model package, so that a service which trusts the key serves it and no other.

    hilum sign --key signing.key --new-key
    hilum sign package/ --key signing.key
    hilum sign models:/fundus@champion --key signing.key

The first line makes a key: signing.key stays with whoever releases models, signing.key.pub is a
line for the file that HILUM_TRUSTED_KEYS names. A folder gets SHA256SUMS.sig, a version in the
registry a tag; the package's digest stays the same. Needs the extra `secure`.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from data_schemas.errors import UsageError
from services.cli.console import Console


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "model", nargs="?", metavar="PACKAGE", help="package folder or models:/NAME@ALIAS"
    )
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key")
    parser.add_argument("--new-key", action="store_true", help="make the key first")


def run(options: argparse.Namespace, console: Console) -> int:
    """Make a key, sign, or both."""
    from pipeline.model.signing import new_signing_key, signature_of

    if options.model is None and not options.new_key:
        raise UsageError("no package is named", where="PACKAGE")
    said: list[str] = []
    tree: dict[str, str] = {}
    if options.new_key:
        public = new_signing_key(options.key)
        said.append(f"made {options.key} (keep it secret) and {public} (to be trusted)")
        tree["public_key"] = str(public)
    if options.model is not None:
        digest, place = _sign(options.model, lambda sha: signature_of(sha, options.key))
        said.append(f"signed package {digest}: {place}")
        tree |= {"package_sha256": digest, "signature": place}
    console.result("\n".join(said), tree)
    return 0


def _sign(model: str, signature_for: Callable[[str], str]) -> tuple[str, str]:
    from data_schemas.files import write_text
    from pipeline.model.package import open_package
    from pipeline.model.signing import SIGNATURE

    if not model.startswith("models:/"):
        package = open_package(Path(model))
        write_text(package.folder / SIGNATURE, signature_for(package.sha256) + "\n")
        return package.sha256, str(package.folder / SIGNATURE)
    from pipeline.tracking.registry import fetch_package, keep_signature
    from services.cli.settings import tracking_uri

    uri = tracking_uri()
    with tempfile.TemporaryDirectory(prefix="hilum-sign-") as scratch:
        fetched = fetch_package(model, uri, Path(scratch))
        digest = open_package(fetched.folder).sha256
    keep_signature(uri, fetched.name, fetched.version, signature_for(digest))
    return digest, f"models:/{fetched.name}/{fetched.version}"
