r"""Regular expressions as JSON Schema means them (ECMA-262), said in Python's dialect. Used by checks and validator.

`\d`, `\w` are ASCII and `\s` is ECMA's whitespace, `$` is the end of the text and nothing else. What cannot be said
(such as `\p{…}`) does not compile, and is refused when the configuration is read.
"""

from __future__ import annotations

import re
from functools import cache

_SPACES = r"\t\n\x0b\x0c\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": _SPACES}
_TOKEN = re.compile(r"\\.|\[\^?|\]|\$|\(\?<(?=[A-Za-z_])|.", re.DOTALL)


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
    name = token[1:] if token.startswith("\\") else ""
    if name.lower() in _CLASSES and name:
        return f"[{'^' if name.isupper() else ''}{_CLASSES[name.lower()]}]"
    return {"$": r"\Z", "(?<": "(?P<", r"\Z": "Z", r"\A": "A", r"\/": "/"}.get(token, token)


def _inside(token: str) -> str:
    if token in (r"\D", r"\W", r"\S"):
        raise re.error(f"{token} within brackets is not supported")
    if token.startswith("\\") and token[1:] in _CLASSES:
        return _CLASSES[token[1:]]
    return {"[": r"\[", "[^": r"\[^", r"\/": "/"}.get(token, token)
