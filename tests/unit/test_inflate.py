from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from eagleray.actors.edge.inflate import STEP, Broken, inflate

SQUEEZE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}
WHOLE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": lambda data: zlib.decompress(data, wbits=15 if data[:1] and data[0] & 15 == 8 else -15),
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(data),
}
codings = pytest.mark.parametrize("coding", sorted(SQUEEZE))


@codings
@given(data=st.binary(max_size=2000), times=st.integers(1, 500))
def test_what_was_squeezed_comes_back_in_bounded_pieces(coding: str, data: bytes, times: int) -> None:
    pieces = list(inflate(SQUEEZE[coding](data * times), coding))
    assert b"".join(pieces) == data * times
    assert all(0 < len(piece) <= STEP for piece in pieces)


@codings
@given(data=st.binary(min_size=1, max_size=500), cut=st.integers(1, 50))
def test_every_cut_is_noticed(coding: str, data: bytes, cut: int) -> None:
    packed = SQUEEZE[coding](data)
    with pytest.raises(Broken):
        list(inflate(packed[: max(0, len(packed) - cut)], coding))


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_concatenated_members_are_one_body(coding: str, parts: list[bytes]) -> None:
    assert b"".join(inflate(b"".join(map(SQUEEZE[coding], parts)), coding)) == b"".join(parts)


@codings
@given(data=st.binary(max_size=300), squeezed=st.booleans(), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_bytes_with_damage_are_broken_or_what_the_library_itself_makes_of_them(
    coding: str, data: bytes, squeezed: bool, at: int, byte: int
) -> None:
    body = bytearray(SQUEEZE[coding](data) if squeezed else data)
    body[at : at + 1] = bytes([byte])  # replaces a byte, or adds one
    try:
        found = b"".join(inflate(bytes(body), coding))
    except Broken as broken:
        assert str(broken)
    else:
        assert found == WHOLE[coding](bytes(body))


def test_deflate_without_its_header_inflates() -> None:
    assert b"".join(inflate(zlib.compress(b"event" * 100, wbits=-15), "deflate")) == b"event" * 100


def test_zstd_window_beyond_8_mib_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    squeeze = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = squeeze.compress(b"x" * (20 << 20)) + squeeze.flush()
    with pytest.raises(Broken):
        list(inflate(packed, "zstd"))
