"""SQL as tokens, and texts that remember where their parts came from. Knows no grammar: DuckDB's parser has that.

Used by `postgres.session`, which splits what clients send into statements, by `postgres.dialect`, which rewrites
them, and by the parameters of jobs.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["space", "string", "quoted", "parameter", "number", "word", "sign"]

SPACES = r"\t\n\v\f\r \xa0\u2000-\u200b\u202f\u205f\u2060\u3000\ufeff"
"""What DuckDB takes for space, in a class of `re`: U+2028 and U+0085 are none. A comment ends at either newline."""

_TOKEN = re.compile(
    rf"""
      (?P<space>(?:[{SPACES}]+|--[^\r\n]*)+)
    | (?P<comment>/\*)
    | (?P<string>[eE]'(?:[^'\\]|\\.|'')*'|[xXbB]?'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<parameter>\$\d+)
    | (?P<fence>\$(?:[^\W\d]\w*)?\$)
    | (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<sign>::|!?~~?\*?|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_FENCE = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text; comments are space."""

    kind: Kind
    text: str
    start: int  # characters from the beginning of the text

    @property
    def end(self) -> int:
        """Where the next one starts."""
        return self.start + len(self.text)

    @property
    def name(self) -> str:
        """An identifier as it is looked up: quotes are taken off, other names are in lower case. Empty: it is none."""
        if self.kind == "quoted":
            return self.text[1:-1].replace('""', '"')
        return self.text.lower() if self.kind == "word" else ""

    @property
    def value(self) -> str | None:
        """What a plain string says; None for other tokens."""
        return self.text[1:-1].replace("''", "'") if self.kind == "string" and self.text.startswith("'") else None


def tokens(text: str) -> Iterator[Token]:
    """All of `text`, space included. What is not closed (a string, a comment) comes as signs: the parser objects."""
    at = 0
    while match := _TOKEN.match(text, at):
        kind, end = match.lastgroup or "sign", match.end()
        if kind == "comment":
            kind, end = "space", comment_end(text, end)
        elif kind == "fence":
            closing = text.find(match[0], end)
            kind, end = ("sign", at + 1) if closing < 0 else ("string", closing + len(match[0]))
        yield Token(kind, text[at:end], at)  # type: ignore[arg-type]
        at = end


def comment_end(text: str, at: int) -> int:
    """Where the block comment that was opened before `at` ends; they nest."""
    depth = 1
    while depth and (fence := _FENCE.search(text, at)):
        depth += 1 if fence[0] == "/*" else -1
        at = fence.end()
    return at if depth == 0 else len(text)


def statements(text: str) -> list[tuple[str, int]]:
    """The statements of `text`, each with where it starts; what has no token but space is left out."""
    found: list[tuple[str, int]] = []
    start, filled = 0, False
    for token in tokens(text):
        if token.text == ";" and token.kind == "sign":
            if filled:
                found.append((text[start : token.start], start))
            start, filled = token.end, False
        elif token.kind != "space":
            filled = True
    if filled:
        found.append((text[start:], start))
    return found


@dataclass(frozen=True, slots=True)
class Edit:
    """`text` takes the place of what was from `start` to `end`."""

    start: int
    end: int
    text: str


class Edited:
    """A text after edits, which do not overlap; knows where its characters were before."""

    def __init__(self, before: str, edits: Iterable[Edit]) -> None:
        """Apply `edits` in order of their place."""
        parts: list[str] = []
        done = length = 0
        self._places: list[tuple[int, int, bool]] = [(0, 0, False)]  # (here, before, whether it stands still there)
        for edit in sorted(edits, key=lambda edit: edit.start):
            if edit.start < done:  # inside of one that was applied
                continue
            parts += before[done : edit.start], edit.text
            length += edit.start - done
            self._places.append((length, edit.start, True))
            length += len(edit.text)
            self._places.append((length, edit.end, False))
            done = edit.end
        self.text = "".join([*parts, before[done:]])

    def origin(self, at: int) -> int:
        """Where the character at `at` was; one that an edit brought: where the edit is."""
        here, before, still = self._places[bisect_right(self._places, at, key=lambda place: place[0]) - 1]
        return before if still else before + at - here


def significant(text: str) -> Sequence[Token]:
    """The tokens of `text` that are not space."""
    return [token for token in tokens(text) if token.kind != "space"]
