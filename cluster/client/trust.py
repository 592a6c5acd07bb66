"""Whom a client believes to be the platform behind an https URL, and what it shows of itself. Used by `target`.

A URL that the user names is checked against the system's authorities, or those of `--ca`. The project's own platform
is known by its very certificate, which lies beside its configuration: whoever may read that needs no authority, and the
name in it need not be that of this machine.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from eagleray.cluster.errors import ConfigError

_END = "-----END CERTIFICATE-----"


def trust(ca: Path | None, cert: Path | None) -> ssl.SSLContext:
    """TLS that believes `ca` (PEM; default: the system's) and shows `cert` (PEM, key included), where given.

    Raises ConfigError for files that cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("--ca", f"{ca} cannot be used: {error}; expected certificates in PEM") from None
    return _showing(context, cert)


def trust_own(server_cert: Path, cert: Path | None) -> ssl.SSLContext:
    """TLS that believes the certificate in `server_cert` (the first, where a chain follows) and no other."""
    try:
        first = server_cert.read_text().partition(_END)[0] + _END + "\n"
        context = ssl.create_default_context(cadata=first)
    except (OSError, ValueError, ssl.SSLError) as error:
        raise ConfigError("edge.tls.cert", f"{server_cert} cannot be used: {error}") from None
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return _showing(context, cert)


def _showing(context: ssl.SSLContext, cert: Path | None) -> ssl.SSLContext:
    if cert is not None:
        try:
            context.load_cert_chain(cert)
        except (OSError, ssl.SSLError) as error:
            expected = "expected a certificate and its key in one PEM file"
            raise ConfigError("--cert", f"{cert} cannot be used: {error}; {expected}") from None
    return context
