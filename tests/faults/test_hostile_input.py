"""Bodies that are meant to break things: answered with a verdict, in bounded memory, by workers that stay alive."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.running_platform import RunningPlatform, eventually

pytestmark = [pytest.mark.platform, pytest.mark.faults]
MIB = 1 << 20
TIME = "2026-01-01T00:00:00Z"
GROWTH_MAX = 256 * MIB  # edge.inflated_bytes_max is 64 MiB; a bomb is 512 MiB


def _event(id_: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "time": TIME, **fields}


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


@pytest.fixture(autouse=True)
def _same_workers(platform: RunningPlatform) -> Iterator[None]:
    """Whatever came in, no process died of it."""
    before = {pool: platform.pids(pool) for pool in ("edge", "validate", "window", "writer")}
    yield
    assert {pool: platform.pids(pool) for pool in before} == before
    status, answer = platform.post("anything", json.dumps(_event("still-alive")).encode())
    assert (status, answer["rejected"]) == (200, [])


@contextmanager
def _bounded(platform: RunningPlatform) -> Iterator[None]:
    """Edge and validators grow by less than GROWTH_MAX meanwhile."""
    pids = platform.pids("edge") + platform.pids("validate")
    before = {pid: _resident(pid) for pid in pids}
    peaks, over = dict(before), threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            for pid in pids:
                peaks[pid] = max(peaks[pid], _resident(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert {pid: peak - before[pid] for pid, peak in peaks.items() if peak - before[pid] > GROWTH_MAX} == {}


def _bomb(coding: str) -> bytes:
    """512 MiB of spaces, packed."""
    block = b" " * MIB
    if coding == "zstd":
        packer = zstandard.ZstdCompressor(level=3).compressobj()
        return b"".join(packer.compress(block) for _ in range(512)) + packer.flush()
    deflater = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    return b"".join(deflater.compress(block) for _ in range(512)) + deflater.flush()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_bombs_are_refused_in_bounded_memory(platform: RunningPlatform, coding: str) -> None:
    bomb = _bomb(coding)
    assert len(bomb) < MIB
    with _bounded(platform):
        for _ in range(3):
            status, answer = platform.post("anything", bomb, Content_Encoding=coding)
            assert (status, answer["error"]) == (413, "too_large")


def test_bombs_at_once_are_refused_in_bounded_memory(platform: RunningPlatform) -> None:
    bomb, statuses = _bomb("zstd"), []

    def send() -> None:
        statuses.append(platform.post("anything", bomb, Content_Encoding="zstd")[0])

    with _bounded(platform):
        senders = [threading.Thread(target=send) for _ in range(8)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    assert set(statuses) <= {413, 429}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_packed_bodies_are_read_and_broken_ones_refused(platform: RunningPlatform, coding: str) -> None:
    body = json.dumps(_event(f"packed-{coding}", s="x" * 1000)).encode()
    packers: dict[str, Callable[[bytes], bytes]]
    packers = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.ZstdCompressor().compress}
    packed = packers[coding](body)
    assert platform.post("anything", packed, Content_Encoding=coding)[1]["accepted"] == 1
    assert platform.post("anything", packed[:-5], Content_Encoding=coding)[0] == 400
    assert platform.post("anything", body, Content_Encoding=coding)[0] == 400


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_rejected(platform: RunningPlatform, opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    deep = opening * 100_000 + "1" + closing * 100_000
    line = f'{{"id":"deep","time":"{TIME}","data":{{"v":{deep}}}}}'.encode()
    good = json.dumps(_event(f"beside-{opening}")).encode()
    status, answer = platform.post("anything", b"\n".join([good, line, good]), "application/x-ndjson")
    assert status == 200
    assert [(row["index"], row["reason"]) for row in answer["rejected"]] == [(1, "too_deep")]
    status, answer = platform.post("anything", line)
    assert status == 400 or answer["rejected"][0]["reason"] == "too_deep"
    assert platform.post("anything", deep.encode())[0] in (200, 400)


NUMBERS = {
    "ten thousand digits": "9" * 10_000,
    "two to the 64th": str(2**64),
    "two to the 63rd": str(2**63),
    "largest int64": str(2**63 - 1),
    "smallest int64": str(-(2**63)),
    "below the smallest": str(-(2**63) - 1),
    "1e400": "1e400",
    "-1e400": "-1e400",
    "1e-400": "1e-400",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "minus infinity": "-Infinity",
    "1.0 as an integer": "1.0",
    "leading zero": "01",
    "hexadecimal": "0x10",
    "a long fraction": "0." + "1" * 400,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_exact_or_rejected(platform: RunningPlatform, name: str) -> None:
    text, id_ = NUMBERS[name], f"number-{name}"
    valid = name not in ("NaN", "Infinity", "minus infinity", "leading zero", "hexadecimal")
    fields = {"integer": "n", "double": "x", "free": "data"}
    values = {"integer": text, "double": text, "free": f'{{"v":{text}}}'}
    lines = [f'{{"id":"{id_} {k}","time":"{TIME}","{field}":{values[k]}}}' for k, field in fields.items()]
    status, answer = platform.post("anything", "\n".join(lines).encode(), "application/x-ndjson")
    assert status == 200
    rejected = {row["index"]: row["reason"] for row in answer["rejected"]}
    if not valid:
        assert rejected == {0: "json", 1: "json", 2: "json"}
        return
    kept = [kind for index, kind in enumerate(fields) if index not in rejected]
    eventually(lambda: len(_stored(platform, id_, "id")) == len(kept))
    for kind in kept:
        (value,) = _stored(platform, f"{id_} {kind}", {"free": "data"}.get(kind, fields[kind]))
        if kind == "integer":
            assert value == Decimal(text)
        elif kind == "double":
            assert value == float(text)
            assert abs(value) != float("inf")
        else:
            raw = value if isinstance(value, str) else json.dumps(value)
            assert json.loads(raw, parse_float=str, parse_int=str)["v"] == text


def _visible(platform: RunningPlatform, query: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = eventually(lambda: platform.sql(query))
    return rows


def _stored(platform: RunningPlatform, id_: str, column: str) -> list[Any]:
    return [row[0] for row in platform.sql(f"SELECT {column} FROM anything.events WHERE starts_with(id, '{id_}')")]


TEXTS: dict[str, tuple[bytes, bool]] = {
    "a NUL, escaped": (b'"a\\u0000b"', True),
    "a NUL, raw": (b'"a\x00b"', False),
    "a control character, raw": (b'"a\x1fb"', False),
    "bad UTF-8": (b'"a\xff\xfeb"', False),
    "overlong UTF-8": (b'"a\xc0\xafb"', False),
    "a surrogate in UTF-8": (b'"a\xed\xa0\x80b"', False),
    "a lone surrogate, escaped": (b'"a\\ud800b"', False),
    "a pair of surrogates": (b'"\\ud83d\\ude00"', True),
    "the last code point": ('"\U0010ffff"'.encode(), True),
    "not a character": ('"\uffff"'.encode(), True),
    "right to left": ('"\u202eabc"'.encode(), True),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_survives_or_is_rejected(platform: RunningPlatform, name: str) -> None:
    raw, valid = TEXTS[name]
    line = f'{{"id":"text {name}","time":"{TIME}","s":'.encode() + raw + b"}"
    beside = json.dumps(_event(f"beside text {name}", s="ok")).encode()
    status, answer = platform.post("anything", line + b"\n" + beside, "application/x-ndjson")
    assert status == 200
    rejected = [(row["index"], row["reason"]) for row in answer["rejected"]]
    if valid:
        assert rejected == []
        stored = eventually(lambda: _stored(platform, f"text {name}", "s"))
        assert stored == [json.loads(raw)]
    else:
        assert [index for index, _ in rejected] == [0]
        assert rejected[0][1] in ("json", "schema")
        quoted = eventually(lambda: _letters(platform, f"text {name}"))
        assert line.hex().upper() in quoted


def _letters(platform: RunningPlatform, part: str) -> list[str]:
    needle = part.encode().hex().upper()
    rows = platform.sql(f"SELECT hex(original) FROM anything.dead_letters WHERE contains(hex(original), '{needle}')")
    return [row[0] for row in rows]


def test_a_byte_order_mark_is_treated_alike_in_every_form(platform: RunningPlatform) -> None:
    event = json.dumps(_event("bom")).encode()
    verdicts = set()
    for body, kind in ((event, "application/json"), (b"[" + event + b"]", "application/json")):
        status, answer = platform.post("anything", b"\xef\xbb\xbf" + body, kind)
        verdicts.add((status, answer.get("accepted"), answer.get("error")))
    assert len(verdicts) == 1
    status, answer = platform.post("anything", b"\xef\xbb\xbf" + event, "application/x-ndjson")
    assert status in (200, 400)
    assert status == 400 or answer["accepted"] + len(answer["rejected"]) == 1


def test_duplicate_keys_follow_one_rule_on_both_paths(platform: RunningPlatform) -> None:
    """A clean batch goes the fast way; a batch with a bad event is judged one by one. Both must keep the same value."""
    bad = json.dumps(_event("bad", n="many")).encode()
    stored: dict[str, Any] = {}
    for path, companions in (("fast", []), ("slow", [bad])):
        fields = '"n":1,"s":"first","n":2,"s":"last","data":{"a":1,"a":2}'
        double = f'{{"id":"double {path}","time":"{TIME}",{fields}}}'.encode()
        _, answer = platform.post("anything", b"\n".join([double, *companions]), "application/x-ndjson")
        assert [row["index"] for row in answer["rejected"]] == [1][: len(companions)] or answer["accepted"] == 0
        if answer["accepted"]:
            stored[path] = _visible(platform, f"SELECT n, s FROM anything.events WHERE id = 'double {path}'")
        else:
            stored[path] = answer["rejected"][0]["reason"]
    assert stored["fast"] == stored["slow"]
    assert stored["fast"] in ([(2, "last")], "json")
