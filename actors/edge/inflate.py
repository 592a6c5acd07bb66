"""Inflates gzip, deflate and zstd bodies in bounded steps, so that a bomb costs no more than the limit it breaks.

Called by body. Knows no HTTP: bytes in, pieces out, `Broken` for what does not inflate.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from backports import zstd

STEP = 256 << 10  # bytes inflated at once: half a millisecond of the event loop
_SLICE = 64 << 10  # bytes given to a decoder at once; it copies what it did not use
_MEMBERS_MAX = 1000  # concatenated streams of one body; each costs a decoder
_ZSTD_WINDOW_LOG = 23  # 8 MiB, the most that RFC 9659 lets a content encoding use


class Broken(Exception):
    """The body is not what its Content-Encoding says."""


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Zlib:
    """zlib's decoder with the manners of bz2, lzma and zstd."""

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        # A full output may leave more inside, even with all input used.
        self.needs_input = not self._stream.unconsumed_tail and len(out) < max_length
        return out


def _gzip(body: bytes) -> _Decoder:
    return _Zlib(wbits=31)


def _deflate(body: bytes) -> _Decoder:
    # RFC 9110 means zlib's format; many senders leave its header out.
    headed = len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return _Zlib(wbits=15 if headed else -15)


def _zstd(body: bytes) -> _Decoder:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})


_DECODERS: dict[str, Callable[[bytes], _Decoder]] = {"gzip": _gzip, "deflate": _deflate, "zstd": _zstd}
CODINGS = frozenset(_DECODERS)


def inflate(body: bytes, coding: str) -> Iterator[bytes]:
    """Pieces of at most STEP bytes; raises Broken where the body is corrupt, cut short or followed by more."""
    make = _DECODERS[coding]
    at, members, decoder = 0, 1, make(body)
    try:
        while True:
            piece = body[at : at + _SLICE] if decoder.needs_input else b""
            if decoder.needs_input and not piece:
                raise Broken(f"the {coding} body is cut short")
            at += len(piece)
            if out := decoder.decompress(piece, STEP):
                yield out
            if not decoder.eof:
                continue
            at -= len(decoder.unused_data)
            if at == len(body):
                return
            members += 1
            if members > _MEMBERS_MAX or coding == "deflate":
                raise Broken(f"the {coding} body has something after its end")
            decoder = make(body)
    except (zlib.error, zstd.ZstdError) as error:
        raise Broken(f"the body is not {coding}: {error}") from None
