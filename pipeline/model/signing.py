"""Signs a package's digest and checks it against keys that are trusted: Ed25519 (RFC 8032).

A signature is one line, ``ed25519 KEY SIGNATURE``: the name of the public key (the first 16 hex
digits of its SHA-256) and the signature in base64, over a fixed prefix and the package's digest.
In a folder it is ``SHA256SUMS.sig``; in the registry a tag of the version. The digest covers every
file, so a signature needs none of them.
"""

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import PackageError, UsageError
from data_schemas.files import sha256

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = "SHA256SUMS.sig"
_PREFIX = b"hilum package 1\n"
_KIND = "ed25519"


def new_signing_key(path: Path) -> Path:
    """Write a new private key to ``path``, readable by its owner only, and the public one beside it.

    Returns
    -------
    Path
        The public key's file, ``path`` with ``.pub`` added: a line for a file of trusted keys.

    Raises
    ------
    UsageError
        If there is a file already.
    """
    _need_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UsageError("is there already; keys are not written over", where=path) from error
    with os.fdopen(handle, "wb") as stream:
        stream.write(text)
    public = path.with_name(path.name + ".pub")
    public.write_text(f"{_KIND} {base64.b64encode(_public_bytes(private)).decode()}\n")
    return public


def signature_of(package_sha256: str, key: Path) -> str:
    """Return the signature of a package's digest by the private key in a PEM file.

    Raises
    ------
    UsageError
        If the file can't be read or holds another kind of key.
    """
    _need_cryptography()
    private = _private_key(key)
    signed = base64.b64encode(private.sign(_PREFIX + package_sha256.encode())).decode()
    return f"{_KIND} {_name(_public_bytes(private))} {signed}"


def check_signature(folder: Path, package_sha256: str, trusted: Path) -> str:
    """Check the signature of the package in ``folder``; return the name of the key that signed it.

    Parameters
    ----------
    folder
        Where :data:`SIGNATURE` lies.
    package_sha256
        Digest of the package, as opened and verified.
    trusted
        File of public keys, one a line: ``ed25519 BASE64 who it is``.

    Raises
    ------
    PackageError
        If it isn't signed, or by none of these keys, or the signature is of another package.
    UsageError
        If the file of trusted keys can't be used.
    """
    _need_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    known = _trusted_keys(trusted)
    try:
        words = (folder / SIGNATURE).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise PackageError(
            "isn't signed, and only signed packages are served here",
            where=folder,
            mend="hilum sign PACKAGE --key FILE",
        ) from error
    if len(words) != 3 or words[0] != _KIND or words[1] not in known:
        raise PackageError(
            "is signed by none of the trusted keys",
            where=folder,
            mend=f"sign it with one of {', '.join(sorted(known))}",
        )
    try:
        signed = base64.b64decode(words[2], validate=True)
        Ed25519PublicKey.from_public_bytes(known[words[1]]).verify(
            signed, _PREFIX + package_sha256.encode()
        )
    except (ValueError, InvalidSignature) as error:
        raise PackageError(
            "carries a signature that isn't of this package",
            where=folder / SIGNATURE,
            mend="fetch the package again; if it stays so, somebody changed it",
        ) from error
    return words[1]


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "signatures need the package cryptography", mend="pip install 'hilum[secure]'"
        ) from error


def _trusted_keys(path: Path) -> dict[str, bytes]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the trusted keys can't be read", where=path) from error
    found: dict[str, bytes] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            key = base64.b64decode(words[1], validate=True) if words[0] == _KIND else b""
        except (IndexError, ValueError):
            key = b""
        if len(key) != 32:
            raise UsageError("is no line of `ed25519 BASE64`", where=f"{path}:{number}")
        found[_name(key)] = key
    if not found:
        raise UsageError("holds no key", where=path)
    return found


def _private_key(path: Path) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            "the signing key can't be read", where=path, mend="hilum sign --key FILE --new-key"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError("isn't an Ed25519 key", where=path)
    return key


def _public_bytes(key: "Ed25519PrivateKey") -> bytes:
    return key.public_key().public_bytes_raw()


def _name(public: bytes) -> str:
    return sha256(public)[:16]
