"""The five formats of strings that a schema may ask for, each one rule, used by the arbiter and the fast path alike."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

import jsonschema
from rfc3986_validator import validate_rfc3986

from eagleray.cluster.events.instants import day, instant_us

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_IPV6_HOST = re.compile(r"^[^/?#]*//[^/?#]*\[([0-9A-Fa-f:.]+)\]")
_QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
_EMAIL = re.compile(
    rf"(?:{_ATOM}(?:\.{_ATOM})*|{_QUOTED})@(?:(?P<host>{_LABEL}(?:\.{_LABEL})*)|\[(?P<literal>[^\]]+)\])"
)


def is_uuid(text: str) -> bool:
    """RFC 4122 text, either case."""
    return _UUID.fullmatch(text) is not None


def is_email(text: str) -> bool:
    """RFC 5321 mailbox: dotted atoms or a quoted local part, a host name or an address literal."""
    match = _EMAIL.fullmatch(text)
    if match is None:
        return False
    literal = match["literal"]
    if literal is None:
        return True
    if literal.startswith("IPv6:"):
        return _is_ipv6(literal[5:])
    try:
        ipaddress.IPv4Address(literal)
    except ValueError:
        return False
    return True


def is_uri(text: str) -> bool:
    """RFC 3986 URI with a scheme."""
    if not validate_rfc3986(text, rule="URI"):
        return False
    host = _IPV6_HOST.search(text)
    return host is None or _is_ipv6(host[1])


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def is_instant(text: str) -> bool:
    """RFC 3339 date-time."""
    return instant_us(text) is not None


def is_day(text: str) -> bool:
    """RFC 3339 full-date."""
    return day(text) is not None


FORMATS: dict[str, Callable[[str], bool]] = {
    "date-time": is_instant,
    "date": is_day,
    "uuid": is_uuid,
    "email": is_email,
    "uri": is_uri,
}
"""Every format that a schema may name."""


def format_checker() -> jsonschema.FormatChecker:
    """What `jsonschema` asks about formats; values other than text pass, as the standard says."""
    checker = jsonschema.FormatChecker(formats=())
    for name, rule in FORMATS.items():
        checker.checkers = {**checker.checkers, name: (_texts_only(rule), ())}
    return checker


def _texts_only(rule: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or rule(value)
