"""Field paths as SQL identifiers: `actor.login` is nested, a name with a dot in it is quoted: `"id.orig_h"`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SEGMENT = re.compile(r'"((?:[^"]|"")+)"|([A-Za-z_@$][\w@$]*)')
_PLAIN = re.compile(r"[A-Za-z_@$][\w@$]*")


@dataclass(frozen=True, slots=True)
class FieldPath:
    """A path to a field of an event, one name per level."""

    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> FieldPath:
        """Read a path; raises ValueError that says what was expected."""
        names: list[str] = []
        at = 0
        while match := _SEGMENT.match(text, at):
            names.append(match[1].replace('""', '"') if match[1] is not None else match[2])
            at = match.end()
            if at == len(text):
                return cls(tuple(names))
            if text[at] != ".":
                break
            at += 1
        expected = "expected a.b.c, a name with other characters in it quoted: '\"id.orig_h\"'"
        raise ValueError(f"{text!r} is not a field path; {expected}")

    @property
    def column(self) -> str:
        """The name of a column made from this field: the names joined by dots."""
        return ".".join(self.names)

    @property
    def text(self) -> str:
        """The path as `parse` reads it: names quoted where they have to be."""
        return ".".join(name if _PLAIN.fullmatch(name) else FieldPath((name,)).sql for name in self.names)

    @property
    def sql(self) -> str:
        """The path as a SQL expression, every name quoted."""
        return ".".join('"' + name.replace('"', '""') + '"' for name in self.names)
