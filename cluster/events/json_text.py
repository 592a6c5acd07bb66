"""JSON text, strictly: RFC 8259 in UTF-8, one value, no lone surrogates, numbers exact or marked. Used by the arbiter.

Its neighbours are `decode` (the fast path, which takes only what this takes) and docs/json.md with every decision.
Duplicate keys: the last one wins. Depth is measured before anything recurses.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from itertools import pairwise
from math import isinf
from typing import Any

import msgspec
import numpy as np

BLANK = b" \t\r\n"
BOM = b"\xef\xbb\xbf"
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_WHOLE = 2.0**53  # doubles from here on are integers
INT_DIGITS_MAX = 4000  # Python refuses to read integers of more than 4,300 digits
_RAW: msgspec.json.Decoder[msgspec.Raw] = msgspec.json.Decoder(msgspec.Raw)
_RAWS: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])


class Malformed(ValueError):
    """Not one well-formed JSON value in UTF-8; the message says why and where."""


class Unheld(float):
    """A number beyond every double: it compares as an infinity, and no typed field takes it."""


class Rounded(float):
    """An integral double whose text is no integer, such as 1e-400: no integer field takes it."""


def _number(text: str) -> float:
    value = float(text)
    if isinf(value):
        return Unheld(value)
    if not value and text.lower().partition("e")[0].strip("-0."):
        return Rounded(value)
    if value and value.is_integer() and Decimal(text) != value:
        return Rounded(value)
    if abs(value) >= _WHOLE and Decimal(text) == value:
        return int(value)  # an integer, exactly as written: 1e20
    return value


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= INT_DIGITS_MAX else Unheld("-inf" if text[0] == "-" else "inf")


def _constant(text: str) -> float:
    raise Malformed(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_number, parse_int=_integer, parse_constant=_constant)


def check(raw: bytes) -> None:
    """Raise Malformed unless `raw` is one JSON value; RecursionError where it is nested beyond some 900 levels."""
    try:
        if not raw.isascii():
            raw.decode()
        _RAW.decode(raw)
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8: {error.reason} (byte {error.start})") from None
    except msgspec.DecodeError as error:
        raise Malformed(str(error).removeprefix("JSON is malformed: ") if raw.strip(BLANK) else "empty") from None


def parse(raw: bytes) -> Any:
    """The value of `raw`; raises Malformed. Measure `depth` first."""
    check(raw)
    return _DECODER.decode(raw.decode())


def is_utf8(raw: bytes) -> bool:
    """Whether `raw` is UTF-8, surrogates excluded."""
    try:
        return raw.isascii() or bool(raw.decode())
    except UnicodeDecodeError:
        return False


def is_grammatical(raw: bytes) -> bool:
    """Whether `raw` follows the grammar, so that what `check` objects to is a lone surrogate within one event."""
    try:
        _DECODER.decode(raw.decode())
    except (ValueError, RecursionError):
        return False
    return True


def outside_strings(raw: bytes) -> bytes:
    """`raw` with the strings blanked out, byte for byte; an unterminated one stays."""
    return _STRING.sub(lambda match: b"s" * len(match[0]), raw)


def _steps(blanked: bytes) -> np.ndarray:
    """+1 at each opening bracket, -1 at each closing one: (n,) int8."""
    characters = np.frombuffer(blanked, np.uint8)
    opening = (characters == ord("{")) | (characters == ord("["))
    closing = (characters == ord("}")) | (characters == ord("]"))
    steps: np.ndarray = opening.astype(np.int8) - closing.astype(np.int8)
    return steps


def depth(raw: bytes | memoryview) -> int:
    """How deep `raw` is nested: 0 for a scalar, 1 for `{}`. Meant for JSON; other bytes do it no harm."""
    raw = bytes(raw)
    if raw.count(b"{") + raw.count(b"[") <= 1:
        return 1 if b"{" in raw or b"[" in raw else 0
    return int(np.cumsum(_steps(outside_strings(raw)), dtype=np.int32).max(initial=0))


def elements(body: bytes) -> list[bytes]:
    """The elements of a JSON array, each as sent; raises Malformed.

    Elements that are too deep to check, or have lone surrogates, do not spoil the others: they are left to the arbiter.
    """
    try:
        check(body)
        return [bytes(element) for element in _RAWS.decode(body)]
    except RecursionError:
        parts = _cut(body.strip(BLANK))
        for part in parts:
            _check_unless_deep(part)
        return parts
    except Malformed:
        if not is_grammatical(body):
            raise
        return _cut(body.strip(BLANK))


def _check_unless_deep(raw: bytes) -> None:
    try:
        check(raw)
    except RecursionError:
        pass


def _cut(body: bytes) -> list[bytes]:
    blanked = outside_strings(body)
    depths = np.cumsum(_steps(blanked), dtype=np.int32)
    if body[:1] != b"[" or body[-1:] != b"]" or depths[-1] != 0 or depths[:-1].min() < 1:
        raise Malformed("brackets do not match")
    commas = np.flatnonzero((np.frombuffer(blanked, np.uint8) == ord(",")) & (depths == 1))
    edges = [0, *commas.tolist(), len(body) - 1]
    return [body[begin + 1 : end].strip(BLANK) for begin, end in pairwise(edges)]
