"""TLS by certificate files, read again when they are renewed; and which proxies are believed."""

import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_schemas.errors import UsageError
from services.inference.settings import ServiceSettings

LOOK_SECONDS = 10.0


class Certificates:
    """A context whose certificate follows its files: a renewed one serves the next connection."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._mark = self._marked()
        self._looked = time.monotonic()
        self.context = self._loaded()
        self.context.sni_callback = self._shaking
        self._current = self.context

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        certificate, key = self._files
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"certificate and key can't be used: {error.strerror or error}",
                where=certificate,
                mend="PEM files, the certificate with its chain, the key without a password",
            ) from error
        return context

    def _shaking(self, connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            mark = self._marked()
            if mark != self._mark:
                # while half of the pair is written the old one serves
                with suppress(UsageError):
                    self._current, self._mark = self._loaded(), mark
        if self._current is not self.context:
            connection.context = self._current

    def _marked(self) -> tuple[int, ...]:
        try:
            return tuple(path.stat().st_mtime_ns for path in self._files)
        except OSError:
            return ()


def server_options(settings: ServiceSettings) -> dict[str, Any]:
    """Return what the HTTP server must be told about TLS and proxies.

    Raises
    ------
    UsageError
        If only one of the two files is named, or they can't be used.
    """
    options: dict[str, Any] = {"proxy_headers": False}
    if settings.trusted_proxies:
        options = {"proxy_headers": True, "forwarded_allow_ips": settings.trusted_proxies.split()}
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise UsageError("certificate and key belong together", where="--tls-cert, --tls-key")
    if settings.tls_cert:
        certificates = Certificates(Path(settings.tls_cert), Path(settings.tls_key))
        options["ssl_context_factory"] = lambda _config, _default: certificates.context
    return options


def scheme(url: str, settings: ServiceSettings) -> str:
    """Return ``url`` with the scheme that the service speaks."""
    return "https" + url.removeprefix("http") if settings.tls_cert else url
