"""`eagleray send` against a real HTTP server that refuses, delays and drops."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from eagleray.cli.app import main

Answer = Callable[["Platform", int, web.Request, list[object]], Awaitable[web.Response]]


async def accept(platform: Platform, attempt: int, request: web.Request, events: list[object]) -> web.Response:
    return web.json_response({"accepted": len(events), "rejected": []})


@dataclass
class Platform:
    """Takes every event of every answered request; `answer` decides what it says to the n-th request."""

    answer: Answer = accept
    url: str = ""
    taken: dict[str, list[object]] = field(default_factory=dict)  # by Idempotency-Key
    attempts: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def post(self, request: web.Request) -> web.Response:
        body = (await request.read()).decode()
        lines = [line for line in body.split("\n") if line.strip()]
        events = [_value(line) for line in lines] if "ndjson" in request.content_type else json.loads(body)
        key = request.headers["Idempotency-Key"]
        self.attempts.append(key)
        self.headers.append(dict(request.headers))
        response = await self.answer(self, len(self.attempts), request, events)
        if response.status == 200:
            self.taken[key] = events
        return response

    @property
    def events(self) -> list[object]:
        return [event for events in self.taken.values() for event in events]


def _value(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return line


async def alive(request: web.Request) -> web.Response:
    return web.Response()


async def streams(request: web.Request) -> web.Response:
    return web.json_response({"streams": [{"name": "play"}, {"name": "orders"}]})


@pytest.fixture
def platform() -> Iterator[Platform]:
    platform, ready, stop = Platform(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/streams/{stream}/events", platform.post)
        app.router.add_get("/livez", alive)
        app.router.add_get("/v1/streams", streams)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        platform.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield platform
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def send(platform: Platform, file: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["send", str(file), "--stream", "plays", "--url", platform.url, "--batch", "1000", *options])
    return int(stopped.value.code or 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "events.ndjson"
    path.write_text("".join(f'{{"n":{n}}}\n' for n in range(2500)))
    return path


def test_every_event_arrives_in_the_order_of_the_file(platform: Platform, file: Path, capsys: object) -> None:
    assert send(platform, file, "--batch", "100") == 0
    assert platform.events == [{"n": n} for n in range(2500)]
    assert len(platform.attempts) == 25


def test_a_stream_that_is_not_there_is_told_with_the_one_that_was_meant(
    platform: Platform, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def unknown(platform: Platform, attempt: int, request: web.Request, events: list[object]) -> web.Response:
        return web.json_response({"error": "unknown_stream", "detail": "no stream is called 'plays'"}, status=404)

    platform.answer = unknown
    assert send(platform, file) == 1
    assert "no stream is called 'plays'; did you mean play?" in capsys.readouterr().err
    assert len(platform.attempts) == 1


def test_several_requests_in_flight_lose_nothing(platform: Platform, file: Path) -> None:
    assert send(platform, file, "--batch", "50", "--in-flight", "4") == 0
    assert sorted(event["n"] for event in platform.events) == list(range(2500))  # type: ignore[index]


def test_a_refused_batch_is_repeated_with_the_same_key_and_in_order(platform: Platform, file: Path) -> None:
    async def busy(platform: Platform, attempt: int, request: web.Request, events: list[object]) -> web.Response:
        # By the batch's own attempts: an answer that a starved machine delivers too late is asked for once more.
        tried = platform.attempts.count(request.headers["Idempotency-Key"])
        if tried == 1:
            return web.json_response({"error": "busy"}, status=429, headers={"Retry-After": "0.01"})
        if tried == 2:
            return web.json_response({"error": "log"}, status=503, headers={"Retry-After": "0"})
        return await accept(platform, attempt, request, events)

    platform.answer = busy
    assert send(platform, file, "--timeout", "120") == 0
    assert platform.events == [{"n": n} for n in range(2500)]
    assert list(dict.fromkeys(platform.attempts)) == list(platform.taken)
    assert len(platform.taken) == 3 and all(platform.attempts.count(key) >= 3 for key in platform.taken)


def test_a_lost_answer_is_repeated_with_the_same_key(platform: Platform, file: Path) -> None:
    async def drop(platform: Platform, attempt: int, request: web.Request, events: list[object]) -> web.Response:
        if attempt in (1, 3):
            assert request.transport is not None
            request.transport.abort()
        return await accept(platform, attempt, request, events)

    platform.answer = drop
    assert send(platform, file) == 0
    assert platform.events == [{"n": n} for n in range(2500)]
    assert len(platform.attempts) == 5 and len(set(platform.attempts)) == 3


def test_a_time_out_is_never_success(platform: Platform, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def hang(platform: Platform, attempt: int, request: web.Request, events: list[object]) -> web.Response:
        await asyncio.sleep(0.5)
        return await accept(platform, attempt, request, events)

    platform.answer = hang
    assert send(platform, file, "--timeout", "0.1", "--retries", "0") == 1
    said = capsys.readouterr()
    assert said.out.startswith("accepted 0,")
    assert "NOT SENT: lines 1-1000 (1000 events)" in said.err


def test_after_the_last_retry_it_stops_and_names_what_was_not_sent(
    platform: Platform, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def full(platform: Platform, attempt: int, request: web.Request, events: list[object]) -> web.Response:
        if attempt > 1:
            return web.json_response({"error": "log", "detail": "disk full"}, status=503, headers={"Retry-After": "0"})
        return await accept(platform, attempt, request, events)

    platform.answer = full
    assert send(platform, file, "--batch", "1000", "--retries", "2") == 1
    said = capsys.readouterr()
    assert "accepted 1000, rejected 0" in said.out
    assert "lines 1001-2000 (1000 events): HTTP 503 log: disk full" in said.err
    assert "2001" in said.err and "not tried" in said.err
    assert len(platform.attempts) == 4


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_cannot_succeed_is_not_repeated(platform: Platform, file: Path, status: int) -> None:
    async def no(platform: Platform, attempt: int, request: web.Request, events: list[object]) -> web.Response:
        return web.json_response({"error": "no", "detail": "no"}, status=status)

    platform.answer = no
    assert send(platform, file) == 1
    assert len(platform.attempts) == 1


def test_a_body_that_is_refused_does_not_hold_up_the_rest(platform: Platform, file: Path) -> None:
    async def large(platform: Platform, attempt: int, request: web.Request, events: list[object]) -> web.Response:
        if attempt == 1:
            return web.json_response({"error": "too_large", "detail": "8 MiB"}, status=413)
        return await accept(platform, attempt, request, events)

    platform.answer = large
    assert send(platform, file) == 1
    assert platform.events == [{"n": n} for n in range(1000, 2500)]


def test_verdicts_name_the_line_of_the_file(platform: Platform, tmp_path: Path, capsys: object) -> None:
    async def judge(platform: Platform, attempt: int, request: web.Request, events: list[object]) -> web.Response:
        bad = [index for index, event in enumerate(events) if isinstance(event, str)]
        rejected = [{"index": index, "reason": "json", "detail": "not an object"} for index in bad]
        return web.json_response({"accepted": len(events) - len(bad), "rejected": rejected, "duplicates": 1})

    platform.answer = judge
    file = tmp_path / "mixed.ndjson"
    file.write_text('{"n":1}\n\nbroken\n{"n":2}\n' + "nope\n" * 9)
    assert send(platform, file, "--batch", "4") == 0
    said = capsys.readouterr()  # type: ignore[attr-defined]
    assert (
        said.out == "accepted 2, rejected 10, duplicates 4\n" or said.out == "accepted 2, rejected 10, duplicates 3\n"
    )
    assert "rejected line 3: json: not an object" in said.err
    assert "and 5 more" in said.err


def test_the_key_is_a_bearer_token(platform: Platform, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGLERAY_API_KEY", "secret")
    assert send(platform, file) == 0
    assert {sent["Authorization"] for sent in platform.headers} == {"Bearer secret"}


def test_a_wrong_address_is_told_at_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert send(Platform(url="http://127.0.0.1:9"), file) == 1
    assert "http://127.0.0.1:9: nothing listens there; `eagleray up`" in capsys.readouterr().err


def test_a_stream_is_one_part_of_the_path_whatever_its_name(platform: Platform, file: Path) -> None:
    assert send(platform, file, "--stream", "a b/../c?d#e") == 0
    assert platform.events == [{"n": n} for n in range(2500)]


def test_a_missing_file_is_wrong_usage(platform: Platform, tmp_path: Path) -> None:
    assert send(platform, tmp_path / "absent.json") == 2


def test_a_rate_makes_requests_small(platform: Platform, file: Path) -> None:
    assert send(platform, file, "--rate", "20000") == 0
    assert {len(events) for events in platform.taken.values()} == {1000, 500}
    file.write_text('{"n":1}\n' * 20)
    platform.taken.clear()
    assert send(platform, file, "--rate", "100") == 0
    assert {len(events) for events in platform.taken.values()} == {10}
