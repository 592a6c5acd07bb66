r"""Regular expressions as JSON Schema means them (ECMA-262), said in Python's dialect. Used by checks and validator.

`\d`, `\w` are ASCII and `\s` is ECMA's whitespace, `$` is the end of the text and nothing else. `\p{…}` of a general
category (`\p{L}`, `\p{Uppercase_Letter}`, `\p{gc=Nd}`) becomes the ranges of its characters, by the Unicode version of
this Python. What cannot be said (scripts, other properties) is refused when the configuration is read.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

_SPACES = r"\t\n\x0b\x0c\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": _SPACES}
_TOKEN = re.compile(r"\\[pP]\{[^{}]*\}|\\c[A-Za-z]|\\.|\[\^?|\]|\$|\(\?<(?=[A-Za-z_])|.", re.DOTALL)


_LONG = {
    "Letter": "L", "Cased_Letter": "LC", "Uppercase_Letter": "Lu", "Lowercase_Letter": "Ll", "Titlecase_Letter": "Lt",
    "Modifier_Letter": "Lm", "Other_Letter": "Lo", "Mark": "M", "Combining_Mark": "M", "Nonspacing_Mark": "Mn",
    "Spacing_Mark": "Mc", "Enclosing_Mark": "Me", "Number": "N", "Decimal_Number": "Nd", "digit": "Nd",
    "Letter_Number": "Nl", "Other_Number": "No", "Punctuation": "P", "punct": "P", "Connector_Punctuation": "Pc",
    "Dash_Punctuation": "Pd", "Open_Punctuation": "Ps", "Close_Punctuation": "Pe", "Initial_Punctuation": "Pi",
    "Final_Punctuation": "Pf", "Other_Punctuation": "Po", "Symbol": "S", "Math_Symbol": "Sm", "Currency_Symbol": "Sc",
    "Modifier_Symbol": "Sk", "Other_Symbol": "So", "Separator": "Z", "Space_Separator": "Zs", "Line_Separator": "Zl",
    "Paragraph_Separator": "Zp", "Other": "C", "Control": "Cc", "cntrl": "Cc", "Format": "Cf", "Surrogate": "Cs",
    "Private_Use": "Co", "Unassigned": "Cn",
}  # fmt: skip
_CATEGORIES = {*_LONG.values()} - {"LC"}


@cache
def python_pattern(pattern: str) -> str:
    """The pattern for `re.search`; raises re.error where there is none."""
    parts, inside = [], False
    for token in _TOKEN.findall(pattern):
        parts.append(_inside(token) if inside else _outside(token))
        inside = token != "]" if inside else token.startswith("[")
    found = "".join(parts)
    re.compile(found)
    return found


def _outside(token: str) -> str:
    if token.startswith(r"\c") and len(token) > 2:
        return f"\\x{ord(token[2]) % 32:02x}"
    if token.lower().startswith(r"\p{"):
        return f"[{found}]" if (found := _characters(token)) else "(?!)"
    name = token[1:] if token.startswith("\\") else ""
    if name.lower() in _CLASSES and name:
        return f"[{'^' if name.isupper() else ''}{_CLASSES[name.lower()]}]"
    return {"$": r"\Z", "(?<": "(?P<", r"\Z": "Z", r"\A": "A", r"\/": "/"}.get(token, token)


def _inside(token: str) -> str:
    if token.startswith(r"\c"):
        return _outside(token)
    if token.lower().startswith(r"\p{"):
        return _characters(token)
    if token in (r"\D", r"\W", r"\S"):
        raise re.error(f"{token} within brackets is not supported")
    if token.startswith("\\") and token[1:] in _CLASSES:
        return _CLASSES[token[1:]]
    return {"[": r"\[", "[^": r"\[^", r"\/": "/"}.get(token, token)


def _characters(token: str) -> str:
    r"""What stands in brackets for `\p{…}` or `\P{…}`; raises re.error."""
    name = re.sub(r"^(General_Category|gc)=", "", token[3:-1])
    name = _LONG.get(name, name)
    if name == "Any":
        found = [(0, sys.maxunicode)]
    elif name == "ASCII":
        found = [(0, 0x7F)]
    elif name == "Assigned":
        found = _others(_ranges()["Cn"])
    elif name == "LC":
        found = [span for each in ("Lu", "Ll", "Lt") for span in _ranges()[each]]
    elif name in _CATEGORIES:
        found = [span for each in sorted(_ranges()) if each.startswith(name) for span in _ranges()[each]]
    else:
        raise re.error(
            f"{token} is not supported; expected a general category such as \\p{{L}}, or Any, ASCII, Assigned"
        )
    spans = _others(sorted(found)) if token[1] == "P" else found
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in spans)


def _others(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is in none of the sorted `spans`."""
    found, at = [], 0
    for first, last in spans:
        if at < first:
            found.append((at, first - 1))
        at = max(at, last + 1)
    return [*found, *([(at, sys.maxunicode)] if at <= sys.maxunicode else [])]


@cache
def _ranges() -> dict[str, list[tuple[int, int]]]:
    """By general category, the spans of its characters in order; a third of a second, once."""
    found: dict[str, list[tuple[int, int]]] = {}
    for category, first, last in _spans():
        found.setdefault(category, []).append((first, last))
    return found


def _spans() -> Iterator[tuple[str, int, int]]:
    of, first = unicodedata.category(chr(0)), 0
    for at in range(1, sys.maxunicode + 1):
        if (category := unicodedata.category(chr(at))) != of:
            yield of, first, at - 1
            of, first = category, at
    yield of, first, sys.maxunicode
