"""The certificate of `edge.tls`: read again when its files change, for connections that come from then on.

Asked by the edge's doorway and by `sql.postgres` for every new connection, by `eagleray up` before anything starts. A
connection keeps the certificate that it began with. Files that cannot be used (half written, not a pair) change
nothing: what was read last goes on, and the log says why.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.sections import TlsConfig

logger = logging.getLogger(__name__)

HTTP = "http/1.1"
LOOK_S = 1.0  # how often the files are looked at, while connections come
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_Marks = tuple[tuple[int, int, int], ...]


class Certificates:
    """The certificate, its key and the CA of clients, as they are now."""

    def __init__(
        self,
        where: str,
        tls: TlsConfig,
        monotonic: Callable[[], float] = time.monotonic,
        protocol: str = HTTP,
    ) -> None:
        """Read them; raises ConfigError at `where` (the file of the configuration) for what cannot be used.

        `protocol` is what clients may ask for by ALPN.
        """
        self._where = where
        self._tls = tls
        self._protocol = protocol
        self._monotonic = monotonic
        self._looked = monotonic()
        self._marks = _marks(tls)
        self._context = server_context(where, tls, protocol)
        self._problem = ""

    def context(self) -> ssl.SSLContext:
        """For the next connection. A fresh context per change: sessions of an older one are not resumed."""
        if self._monotonic() >= self._looked + LOOK_S:
            self._looked = self._monotonic()
            self._look()
        return self._context

    def _look(self) -> None:
        try:
            marks = _marks(self._tls)
            if marks == self._marks:
                return
            self._context = server_context(self._where, self._tls, self._protocol)
            self._marks, self._problem = marks, ""
            logger.info("the certificate was read again", extra={"cert": str(self._tls.cert)})
        except (ConfigError, OSError) as error:
            if str(error) != self._problem:
                logger.error("the certificate stays as it was: %s", error)
                self._problem = str(error)


def server_context(where: str, tls: TlsConfig, protocol: str = HTTP) -> ssl.SSLContext:
    """TLS of at least `min_version`, with client certificates where a CA is named; raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols([protocol])
    for name in ("cert", "key", "client_ca"):
        file = getattr(tls, name)
        if file is not None and not Path(file).is_file():
            raise ConfigError(f"{where}: edge.tls.{name}", f"no such file: {file}")
    try:
        context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        expected = "expected a PEM certificate (with its chain) and its unencrypted private key"
        raise ConfigError(f"{where}: edge.tls.cert", f"cannot be used with {tls.key}: {error}; {expected}") from None
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"{where}: edge.tls.client_ca", f"cannot be used: {error}; expected PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED if tls.client_auth == "required" else ssl.CERT_OPTIONAL
    return context


def _no_password() -> str:
    raise ValueError("the private key is encrypted")


def _marks(tls: TlsConfig) -> _Marks:
    files = [file for file in (tls.cert, tls.key, tls.client_ca) if file is not None]
    found = []
    for file in files:
        stat = Path(file).stat() if Path(file).exists() else None
        found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat else (0, 0, 0))
    return tuple(found)
