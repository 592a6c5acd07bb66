"""Cuts a file of events into request bodies: NDJSON or one JSON value, plain, gzip or zstd. Used by `send`.

Streams: at most one batch and one block are in memory, whatever the size of the file. Every event of a batch knows its
place in the file, so that a verdict can name it.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NoReturn, cast

from eagleray.cluster.errors import EaglerayError

Form = Literal["auto", "ndjson", "json"]
BLOCK = 1 << 20
EVENT_MAX = 64 << 20  # one event larger than this is no event
_BLANK = b" \t\r\n"


class UnreadableInput(EaglerayError):
    """The file is damaged or not what was promised; what was read before it is already on its way."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One request: `places` are the line numbers (NDJSON) or element numbers (JSON) of its events, from 1."""

    body: bytes
    places: Sequence[int]
    content_type: str

    @property
    def unit(self) -> str:
        """What `places` count."""
        return "line" if self.content_type == "application/x-ndjson" else "event"


def inflated(raw: BinaryIO) -> io.BufferedReader:
    """`raw`, decompressed if its first bytes are those of gzip or zstd."""
    reader = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast(Any, raw), BLOCK)
    magic = reader.peek(4)[:4]
    if magic[:2] == b"\x1f\x8b":
        return io.BufferedReader(cast(Any, gzip.GzipFile(fileobj=reader)), BLOCK)
    if magic == b"\x28\xb5\x2f\xfd":
        import zstandard

        stream = zstandard.ZstdDecompressor().stream_reader(reader, read_across_frames=True)
        return io.BufferedReader(cast(Any, stream), BLOCK)
    return reader


def read_batches(raw: BinaryIO, form: Form, events_max: int, bytes_max: int) -> Iterator[Batch]:
    """Batches of at most `events_max` events and about `bytes_max` bytes, in file order; raises UnreadableInput."""
    reader = inflated(raw)
    try:
        head = reader.peek(BLOCK)
        if head.startswith(codecs.BOM_UTF8):
            reader.read(len(codecs.BOM_UTF8))
            head = head[len(codecs.BOM_UTF8) :]
        if form == "auto":
            form = _sniff(head)
        if form == "ndjson":
            yield from _lines(reader, events_max, bytes_max)
        else:
            yield from _elements(reader, events_max, bytes_max)
    except EaglerayError:
        raise
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UnreadableInput(f"cannot be read further: {error}") from error
    except Exception as error:  # zlib.error and zstandard.ZstdError have no common base
        if type(error).__module__ not in ("zlib", "zstd", "zstandard", "zstandard.backend_c"):
            raise
        raise UnreadableInput(f"damaged compression: {error}") from error


def _sniff(head: bytes) -> Form:
    """An array is JSON; an object is JSON if its first line alone is not an object and all of it is."""
    text = head.lstrip(_BLANK)
    if text.startswith(b"["):
        return "json"
    first = text.split(b"\n", 1)[0]
    try:
        json.loads(first)
    except ValueError:
        try:
            json.loads(text)
        except ValueError:
            return "ndjson"
        return "json"
    return "ndjson"


def _lines(reader: io.BufferedReader, events_max: int, bytes_max: int) -> Iterator[Batch]:
    held: list[bytes] = []
    places: list[int] = []
    size, number = 0, 0
    for line in _split(reader):
        number += 1
        if not line.strip(_BLANK):
            continue
        if held and (len(held) >= events_max or size + len(line) > bytes_max):
            yield Batch(b"\n".join(held), places, "application/x-ndjson")
            held, places, size = [], [], 0
        held.append(line)
        places.append(number)
        size += len(line) + 1
    if held:
        yield Batch(b"\n".join(held), places, "application/x-ndjson")


def _split(reader: io.BufferedReader) -> Iterator[bytes]:
    rest = b""
    while block := reader.read1(BLOCK):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        yield from lines
        if len(rest) > EVENT_MAX:
            raise UnreadableInput(f"a line is longer than {EVENT_MAX >> 20} MiB")
    if rest:
        yield rest


def _elements(reader: io.BufferedReader, events_max: int, bytes_max: int) -> Iterator[Batch]:
    held: list[bytes] = []
    places: list[int] = []
    size = 0
    for number, element in enumerate(_values(reader), start=1):
        if held and (len(held) >= events_max or size + len(element) > bytes_max):
            yield Batch(b"[" + b",".join(held) + b"]", places, "application/json")
            held, places, size = [], [], 0
        held.append(element)
        places.append(number)
        size += len(element) + 1
    if held:
        yield Batch(b"[" + b",".join(held) + b"]", places, "application/json")


def _values(reader: io.BufferedReader) -> Iterator[bytes]:
    """The elements of a JSON array, or the one JSON value, each exactly as it was written."""
    text = _Text(reader)
    if text.peek() != "[":
        yield text.value().encode()
    else:
        text.skip()
        while text.peek() != "]":
            yield text.value().encode()
            if text.peek() == ",":
                text.skip()
            elif text.peek() != "]":
                text.fail("expected a comma or the end of the array")
        text.skip()
    if text.peek():
        text.fail("there is more after the end of the JSON value; if there is one object a line, say --format ndjson")


class _Text:
    """A window over UTF-8 text that grows until it holds the next JSON value."""

    def __init__(self, reader: io.BufferedReader) -> None:
        self._reader = reader
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._json = json.JSONDecoder(parse_constant=self._constant)
        self._text, self._at, self._before, self._ended = "", 0, 0, False

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in " \t\r\n":
                    return self._text[self._at]
                self._at += 1
            if not self._grow():
                return ""

    def skip(self) -> None:
        self._at += 1

    def value(self) -> str:
        """The next value's own text."""
        self.peek()
        while True:
            try:
                _, end = self._json.raw_decode(self._text, self._at)
                if end < len(self._text) or not self._grow():  # a number may go on in the next block
                    found, self._at = self._text[self._at : end], end
                    return found
            except (ValueError, RecursionError) as error:
                if not self._grow():
                    self.fail(str(error))

    def _grow(self) -> bool:
        if self._ended:
            return False
        self._text, self._before, self._at = self._text[self._at :], self._before + self._at, 0
        if len(self._text) > EVENT_MAX:
            self.fail(f"not JSON, or an event is larger than {EVENT_MAX >> 20} MiB")
        block = self._reader.read1(BLOCK)
        self._ended = not block
        self._text += self._decode(block, not block)
        return True

    def _constant(self, name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    def fail(self, problem: str) -> NoReturn:
        raise UnreadableInput(f"not a JSON value at character {self._before + self._at}: {problem}")
