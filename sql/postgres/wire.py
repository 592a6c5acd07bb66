"""Messages of Postgres' protocol 3.0 on a socket, and what is written in them. Knows nothing of SQL.

A message is a letter, its length (itself included), and its body; what a client sends first has no letter. Reading and
writing are one thread's; both have a time limit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from eagleray.sql.postgres.types import Column

MESSAGE_BYTES_MAX = 16 << 20
FIRST_BYTES_MAX = 10_000  # of what somebody sends who is not known yet
_FLUSH_BYTES = 64 << 10
_READ_BYTES = 64 << 10


class ProtocolError(Exception):
    """What came is no message of the protocol; the connection ends."""


class Closed(Exception):
    """The client is gone."""


class Stream(Protocol):
    """A socket, with or without TLS."""

    def recv(self, size: int, /) -> bytes:
        """Some bytes; none at the end."""
        ...

    def sendall(self, data: bytes | bytearray | memoryview, /) -> None:
        """Send all."""
        ...

    def settimeout(self, seconds: float | None, /) -> None:
        """What the next call may take."""
        ...

    def fileno(self) -> int:
        """Its number."""
        ...

    def shutdown(self, how: int, /) -> None:
        """End one direction, or both: whoever waits hears of it."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Wire:
    """One connection's messages. What is written leaves with `flush`, or when it has become much."""

    def __init__(self, stream: Stream, write_timeout_s: float) -> None:
        """Writing a piece may take `write_timeout_s`."""
        self.stream = stream
        self._write_timeout_s = write_timeout_s
        self._in = bytearray()
        self._out = bytearray()

    def fileno(self) -> int:
        """The socket's."""
        return self.stream.fileno()

    @property
    def pending(self) -> bool:
        """Whether more has come than was read: with TLS begun now, it would be taken for protected."""
        return bool(self._in)

    def first(self, timeout_s: float) -> tuple[int, bytes]:
        """The code and body of a message without a letter; raises Closed, ProtocolError, TimeoutError."""
        size, code = struct.unpack("!ii", self._read(8, timeout_s))
        if not 8 <= size <= FIRST_BYTES_MAX:
            raise ProtocolError(f"a first message of {size} bytes")
        return code, self._read(size - 8, timeout_s)

    def next(self, timeout_s: float, bytes_max: int = MESSAGE_BYTES_MAX) -> tuple[bytes, bytes]:
        """The letter and body of the next message; raises Closed, ProtocolError, TimeoutError."""
        head = self._read(5, timeout_s)
        (size,) = struct.unpack_from("!i", head, 1)
        if not 4 <= size <= bytes_max:
            raise ProtocolError(f"a message of {size} bytes; at most {bytes_max} are taken")
        return head[:1], self._read(size - 4, timeout_s)

    def _read(self, size: int, timeout_s: float) -> bytes:
        self.stream.settimeout(timeout_s)
        while len(self._in) < size:
            try:
                came = self.stream.recv(_READ_BYTES)
            except TimeoutError:
                raise
            except OSError as error:
                raise Closed(str(error)) from None
            if not came:
                raise Closed("the client closed the connection")
            self._in += came
        found = bytes(self._in[:size])
        del self._in[:size]
        return found

    def write(self, letter: bytes, body: bytes = b"") -> None:
        """Write a message; it may wait for others."""
        self.raw(letter + struct.pack("!i", len(body) + 4) + body)

    def raw(self, data: bytes) -> None:
        """Write bytes as they are; what is large leaves at once. Raises Closed."""
        self._out += data
        if len(self._out) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what was written; raises Closed, also where the client does not read."""
        if not self._out:
            return
        self.stream.settimeout(self._write_timeout_s)
        try:
            self.stream.sendall(self._out)
        except OSError as error:  # TimeoutError is one
            raise Closed(f"the client does not read: {error}") from None
        self._out.clear()


class Body:
    """The parts of a message, read one after the other; raises ProtocolError where there are none."""

    def __init__(self, data: bytes) -> None:
        """Nothing is read yet."""
        self._data = data
        self._at = 0

    def text(self) -> str:
        """A text that ends with a zero byte."""
        end = self._data.find(0, self._at)
        if end < 0:
            raise ProtocolError("a text has no end")
        found, self._at = self._data[self._at : end], end + 1
        try:
            return found.decode()
        except UnicodeDecodeError:
            raise ProtocolError("a text is not UTF-8") from None

    def int16(self) -> int:
        """A number of two bytes."""
        return int(struct.unpack("!h", self.take(2))[0])

    def int32(self) -> int:
        """A number of four bytes."""
        return int(struct.unpack("!i", self.take(4))[0])

    def take(self, size: int) -> bytes:
        """So many bytes."""
        if size < 0 or self._at + size > len(self._data):
            raise ProtocolError("a message is shorter than it says")
        found, self._at = self._data[self._at : self._at + size], self._at + size
        return found

    def value(self) -> bytes | None:
        """Bytes with their length before them; None: null."""
        size = self.int32()
        return None if size < 0 else self.take(size)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._at)


def text(value: str) -> bytes:
    """As the protocol has it: with a zero byte at its end, and none within."""
    return value.replace("\0", "").encode() + b"\0"


def row_description(columns: Sequence[Column], formats: Sequence[bool]) -> bytes:
    """The body of RowDescription. `formats`: as in `requests.Fetch`."""
    parts = [struct.pack("!h", len(columns))]
    for number, column in enumerate(columns):
        binary = formats[number if len(formats) > 1 else 0] if formats else False
        parts.append(text(column.name))
        parts.append(struct.pack("!ihihih", 0, 0, column.oid, column.size, column.modifier, binary))
    return b"".join(parts)


def data_row(values: Iterable[str | None]) -> bytes:
    """The body of DataRow, all of it text."""
    parts = [None if value is None else value.encode() for value in values]
    written = [struct.pack("!i", -1) if part is None else struct.pack("!i", len(part)) + part for part in parts]
    return struct.pack("!h", len(parts)) + b"".join(written)


def fields(values: Mapping[str, str]) -> bytes:
    """The body of ErrorResponse and NoticeResponse: a letter and a text for each."""
    return b"".join(letter.encode() + text(value) for letter, value in values.items()) + b"\0"
