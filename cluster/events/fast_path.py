"""Bodies of clean events straight into Arrow columns, by a small library in C: what `judge` tries first.

`columnar.c` takes a body only where it is certain of every event, and this module only shapes whose
rules it knows; all else goes the general way (`json_reader`, `columns`). Where the library was not
built, everything does: slower, not other.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from ctypes import POINTER, c_bool, c_char_p, c_double, c_int64, c_uint8, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from eagleray.cluster.events.array_items import ItemLimits
from eagleray.cluster.events.arrow_types import arrow_schema
from eagleray.cluster.events.decode import (
    INT_MAX,
    INT_MIN,
    allowed_integers,
    allowed_texts,
    integer_bounds,
    number_bounds,
)
from eagleray.cluster.events.json_text import is_utf8
from eagleray.cluster.events.shape import Member, Shape
from eagleray.cluster.events.stream import EXTRA
from eagleray.cluster.events.verdict import Submission

# enum kind of columnar.c
_KINDS = ("text", "instant", "day", "integer", "number", "boolean", "json", "list", "struct", "extras")
_VERSION = 4
_LEAF = Shape("text", True)  # stands for what has no members
_BOUNDS = {"ge": "at_least", "gt": "above", "le": "at_most", "lt": "below"}
_BYTES_MAX = 2**31 - 1  # of all bodies of a call: the columns' offsets are 32 bits


class _Node(ctypes.Structure):
    """struct node of columnar.c."""

    _fields_ = (
        ("key", c_char_p),
        ("key_length", c_int64),
        ("texts", POINTER(c_char_p)),
        ("text_lengths", POINTER(c_int64)),
        ("wholes", POINTER(c_int64)),
        ("allowed", c_int64),
        ("least", c_int64),
        ("most", c_int64),
        ("at_least", c_double),
        ("above", c_double),
        ("at_most", c_double),
        ("below", c_double),
        ("first_child", c_int64),
        ("children", c_int64),
        ("kind", c_uint8),
        ("nullable", c_uint8),
        ("required", c_uint8),
    )


class _Array(ctypes.Structure):
    """struct ArrowArray of the C data interface."""

    _fields_ = (
        *((name, c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
        *((name, c_void_p) for name in ("buffers", "children", "dictionary", "release", "private_data")),
    )


@cache
def library() -> Any:
    """The library's function, or None where it was not built for this machine and version."""
    stem = Path(__file__).with_name("_columnar")
    files = (stem.with_suffix(suffix) for suffix in EXTENSION_SUFFIXES)
    return next((found for file in files if file.exists() and (found := load(file))), None)


def load(file: Path) -> Any:
    """The function of the library at `file`; None: of another machine, version or layout."""
    try:
        found = ctypes.CDLL(str(file))
    except OSError:  # of another architecture
        return None
    if found.eagleray_columnar_version() != _VERSION:
        return None
    found.eagleray_columnar_layout.restype = POINTER(c_int64)
    expected = [*_layout(_Node), *_layout(_Array), -1]
    if found.eagleray_columnar_layout()[: len(expected)] != expected:  # its length is the version's
        return None
    return _typed(found.eagleray_columnar_read)


def _layout(struct: type[ctypes.Structure]) -> list[int]:
    """The offset of each field, then the size of it all."""
    return [*(getattr(struct, name).offset for name, *_ in struct._fields_), ctypes.sizeof(struct)]


def _typed(function: Any) -> Any:
    function.restype = c_bool
    function.argtypes = [
        POINTER(_Node),
        c_int64,
        POINTER(c_char_p),
        POINTER(c_int64),
        c_char_p,
        c_int64,
        c_int64,
        c_int64,
        c_void_p,
        POINTER(_Array),
    ]
    return function


@dataclass(frozen=True)
class Clean:
    """What was taken: a row for each event of the bodies taken, in order."""

    arrays: list[pa.Array]  # in the order of the schema's properties
    extras: pa.Array  # JSON text of unknown fields
    counts: np.ndarray  # (submissions,) int64: rows of each; -1: its body was not taken


class CleanReader:
    """Reads the clean bodies of one stream. Threads may share it."""

    def __init__(self, shape: Shape, depth_max: int, event_bytes_max: int, items: ItemLimits) -> None:
        """`depth_max` is the nesting allowed of one event, `event_bytes_max` its size, `items` its arrays."""
        self._read = library() if shape.depth <= depth_max and _is_known(shape) else None
        self._schema = arrow_schema(shape).append(pa.field(EXTRA, pa.string()))
        self._bytes_max = event_bytes_max
        self._items = items
        self._nodes = _plan(shape, depth_max)

    def read(self, submissions: Sequence[Submission]) -> Clean | None:
        """The bodies that are taken; None: none is, for want of a library or a shape that it knows."""
        if self._read is None or sum(len(s.body) for s in submissions) > _BYTES_MAX:
            return None
        bodies = [s.body if self._may_take(s) else b"" for s in submissions]
        count, out = len(bodies), _Array()
        lines = bytes(s.form == "ndjson" and body != b"" for s, body in zip(submissions, bodies, strict=True))
        counts = np.empty(count, np.int64)
        if not self._read(
            self._nodes,
            count,
            (c_char_p * count)(*bodies),
            (c_int64 * count)(*map(len, bodies)),
            lines,
            self._bytes_max,
            self._items.event,
            self._items.body,
            counts.ctypes.data,
            ctypes.byref(out),
        ):
            raise MemoryError("no memory for the columns of a micro-batch")
        batch = pa.RecordBatch._import_from_c(ctypes.addressof(out), self._schema)
        *arrays, extras = batch.columns
        return Clean(arrays, extras, counts)

    def _may_take(self, submission: Submission) -> bool:
        body = submission.body
        return is_utf8(body) and not submission.condemned and not self._items.may_be_too_many(body)


def _is_known(shape: Shape) -> bool:
    """Whether the library knows all rules of a shape, or `columns` verifies what it does not."""
    of_text = shape.kind in ("instant", "day")
    if of_text and ("pattern" in shape.schema or shape.allowed is not None or shape.rest):
        return False  # a rule for the text, which the column does not keep
    if shape.item is not None:
        return not shape.schema.get("uniqueItems") and _is_known(shape.item)
    return all(_is_known(member.shape) for member in shape.members)


def _plan(shape: Shape, depth_max: int) -> Any:
    """The nodes of a shape, level by level, so that the members of a struct follow one another."""
    nodes, waiting = [_node("", shape, True, depth_max)], [(shape, depth_max)]
    for at, (above, levels) in enumerate(waiting):  # grows as it goes
        members = above.members or ((Member("", above.item, True),) if above.item else ())
        nodes[at].first_child = len(nodes)
        nodes += [_node(member.name, member.shape, member.required, levels - 1) for member in members]
        waiting += [(member.shape, levels - 1) for member in members]
        if at == 0:  # always there, so that the columns are the same; what may not be there is refused
            nodes.append(_Node(kind=_KINDS.index("extras"), most=levels - 1 if shape.extras == "keep" else -1))
            waiting.append((_LEAF, 0))
        nodes[at].children = len(nodes) - nodes[at].first_child
    return (_Node * len(nodes))(*nodes)


def _node(name: str, shape: Shape, required: bool, levels: int) -> _Node:
    key = name.encode()
    node = _Node(key, len(key), kind=_KINDS.index(shape.kind), nullable=shape.nullable, required=required)
    node.allowed, node.least, node.most = -1, 0, INT_MAX
    node.at_least, node.above, node.at_most, node.below = -math.inf, -math.inf, math.inf, math.inf
    if shape.kind == "text":
        _restrict_text(node, shape)
    elif shape.kind == "integer":
        _restrict_integer(node, shape)
    elif shape.kind == "json":
        node.most = levels
    elif shape.item is not None:
        node.least, node.most = _limits(shape.schema, "minItems", "maxItems")
    elif shape.kind == "number":
        for bound, value in number_bounds(shape.schema).items():
            setattr(node, _BOUNDS[bound], value)
    return node


def _limits(schema: Any, least: str, most: str) -> tuple[int, int]:
    return int(schema.get(least, 0)), min(int(schema.get(most, INT_MAX)), INT_MAX)


def _restrict_text(node: _Node, shape: Shape) -> None:
    if texts := [text.encode() for text in allowed_texts(shape)]:
        node.allowed = len(texts)
        node.texts, node.text_lengths = (c_char_p * len(texts))(*texts), (c_int64 * len(texts))(*map(len, texts))
    else:
        node.least, node.most = _limits(shape.schema, "minLength", "maxLength")


def _restrict_integer(node: _Node, shape: Shape) -> None:
    if wholes := allowed_integers(shape):
        node.allowed, node.wholes = len(wholes), (c_int64 * len(wholes))(*wholes)
        node.least = INT_MIN
    else:
        node.least, node.most = integer_bounds(shape.schema)
