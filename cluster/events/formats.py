"""The formats of strings that are held, each one rule, used by the arbiter and the fast path alike.

Other formats (`iri`, `idn-email`, your own) are annotations, as the standard says: they are not checked.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

import idna
import jsonschema
from rfc3986_validator import validate_rfc3986

from eagleray.cluster.events.instants import day, instant_us
from eagleray.cluster.events.patterns import python_pattern

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
    return bool(validate_rfc3986(text, rule="URI")) and _has_sound_host(text)


def _has_sound_host(text: str) -> bool:
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


def is_time(text: str) -> bool:
    """RFC 3339 full-time: a clock with a zone."""
    return instant_us(f"1972-06-15T{text}") is not None


def is_ipv4(text: str) -> bool:
    """RFC 2673 dotted quad, without leading zeros."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return text.isascii()


def is_ipv6(text: str) -> bool:
    """RFC 4291 address, without a zone."""
    return "%" not in text and text.isascii() and _is_ipv6(text)


def is_hostname(text: str) -> bool:
    """RFC 1123 host name; a label of IDNA (`xn--…`) is one of RFC 5891."""
    return len(text) <= HOST_MAX and _HOST.fullmatch(text) is not None and all(map(_is_label, text.split(".")))


def _is_label(label: str) -> bool:
    if label[2:4] != "--":
        return True
    try:
        return bool(idna.ulabel(label)) and label[:2].lower() == "xn"
    except idna.IDNAError:
        return False


def is_uri_reference(text: str) -> bool:
    """RFC 3986 URI, or a reference relative to one."""
    return bool(validate_rfc3986(text, rule="URI_reference")) and _has_sound_host(text)


def is_regex(text: str) -> bool:
    """A regular expression of ECMA-262, as far as `patterns` can say it."""
    try:
        python_pattern(text)
    except re.error:
        return False
    return r"\Z" not in text


def _fully(pattern: str) -> Callable[[str], bool]:
    match = re.compile(pattern, re.ASCII).fullmatch
    return lambda text: match(text) is not None


HOST_MAX = 253
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_CLOCK_SPAN = r"T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S)"
_SPAN = rf"P(?:\d+W|(?:\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D)(?:{_CLOCK_SPAN})?|{_CLOCK_SPAN})"
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"
_VARIABLE = r"(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})(?:\.?(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2}))*(?::[1-9]\d{0,3}|\*)?"
_LITERAL = r"""[^\x00-\x20"%<>\\^`{|}\x7f]|%[0-9A-Fa-f]{2}"""
_TEMPLATE = rf"(?:{_LITERAL}|\{{[+#./;?&=,!@|]?{_VARIABLE}(?:,{_VARIABLE})*\}})*"

FORMATS: dict[str, Callable[[str], bool]] = {
    "date-time": is_instant,
    "date": is_day,
    "time": is_time,
    "duration": _fully(_SPAN),  # RFC 3339, appendix A
    "uuid": is_uuid,
    "email": is_email,
    "uri": is_uri,
    "uri-reference": is_uri_reference,
    "uri-template": _fully(_TEMPLATE),  # RFC 6570
    "hostname": is_hostname,
    "ipv4": is_ipv4,
    "ipv6": is_ipv6,
    "json-pointer": _fully(_POINTER),  # RFC 6901
    "relative-json-pointer": _fully(rf"(?:0|[1-9]\d*)(?:#|{_POINTER})"),
    "regex": is_regex,
}
"""Every format that is held."""


def format_checker() -> jsonschema.FormatChecker:
    """What `jsonschema` asks about formats; values other than text pass, as the standard says."""
    checker = jsonschema.FormatChecker(formats=())
    for name, rule in FORMATS.items():
        checker.checkers = {**checker.checkers, name: (_texts_only(rule), ())}
    return checker


def _texts_only(rule: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or rule(value)
