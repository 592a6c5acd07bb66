"""Fields that a schema does not name: found at any level and kept as JSON text, values as sent (column `_extra`).

So are values that a union leaves open and that do not fit the column (`Member.loose`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from eagleray.cluster.events.json_text import parse
from eagleray.cluster.events.representable import fits
from eagleray.cluster.events.shape import Shape

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw]).decode
_ENCODE = msgspec.json.Encoder().encode
_NULL = b"null"


class Unknown:
    """Finds the unknown fields of values of one shape."""

    def __init__(self, shape: Shape) -> None:
        """`shape` is a struct, or a list that holds structs at some depth."""
        self._item = Unknown(shape.item) if shape.item is not None else None
        self._known = frozenset(member.name for member in shape.members)
        self._loose = [(member.name, member.shape) for member in shape.members if member.loose]
        self._below = [(member.name, Unknown(member.shape)) for member in shape.members if _reaches(member.shape)]

    def text(self, event: bytes) -> bytes | None:
        """JSON text of the event's unknown fields, nested as they were sent; None where there are none."""
        found = self._find(event)
        return _ENCODE(found) if found else None

    def _find(self, raw: bytes | msgspec.Raw) -> Any:
        if self._item is not None:
            items = [None if bytes(item) == _NULL else self._item._find(item) for item in _ITEMS(raw)]
            return items if any(items) else None
        fields = _FIELDS(raw)
        known = self._known
        beyond: dict[str, Any] = {name: fields[name] for name in fields if name not in known}
        for name, open_ in self._loose:
            if name in fields and bytes(fields[name]) != _NULL and not fits(open_, parse(bytes(fields[name]))):
                beyond[name] = fields[name]
        for name, below in self._below:
            if name not in fields or name in beyond or bytes(fields[name]) == _NULL:
                continue
            if found := below._find(fields[name]):
                beyond[name] = found
        return beyond


def _reaches(shape: Shape) -> bool:
    return shape.kind == "struct" or (shape.item is not None and _reaches(shape.item))
