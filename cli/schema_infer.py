"""`eagleray schema infer`: a first schema and stream of sample events, tried on the samples before it is shown.

Promise: what is printed or written is accepted by `eagleray check`, and the events that it refuses are reported with
their place and reason. Nothing that exists is written over but `streams:` of the configuration, which grows by one.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from eagleray.cli.batches import Batch, read_batches
from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile
from eagleray.cli.send import opened
from eagleray.cluster.config import load_config
from eagleray.cluster.durable import write_whole
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.sections import NAME, SQL_NAMES

if TYPE_CHECKING:
    from eagleray.cluster.events.inference import Inferred
    from eagleray.cluster.events.sampled import Seen

BYTES_MAX = 256 << 20  # of samples, held until the schema was tried on them
BATCH_EVENTS, BATCH_BYTES = 2_000, 4 << 20
SHOWN = 3  # places of each kind of refusal
WIDTH = 96  # of comments


def infer(
    file: Annotated[str, typer.Argument(help="Sample events: NDJSON or JSON, plain, gzip or zstd; `-` is stdin.")],
    stream: Annotated[str | None, typer.Option("--stream", "-s", help="Its name; default: that of the file.")] = None,
    events: Annotated[int, typer.Option(min=1, help="Read so many events at most.")] = 100_000,
    write: Annotated[bool, typer.Option("--write", help="Write the schema, and the stream into the config.")] = False,
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Make a first schema and stream of sample events."""
    from eagleray.cluster.clock import SystemClock

    name = _name(file, stream)
    now_us = SystemClock().now_us()
    sample = _read(file, events)
    made = proposed(name, sample.seen, now_us)
    refused = tried(name, made, sample.batches, now_us)
    if write:
        _write(config_file, name, made)
    else:
        print(f"# {name}.schema.json\n{made.schema}\n# eagleray.yaml\nstreams:\n{made.stream}")
    _report(sample, made, refused)


def _name(file: str, stream: str | None) -> str:
    """The stream's name; raises ConfigError for one that none can have."""
    stem = "events" if file == "-" else Path(file).name.split(".")[0]
    name = stream or (re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:40] or "events")
    if stream is None and not re.fullmatch(NAME, name):
        name = f"s_{name}"
    if not re.fullmatch(NAME, name) or name in SQL_NAMES:
        raise ConfigError("--stream", f"{name!r} cannot be the name of a stream; expected lower case letters, 0-9, _")
    return name


@dataclass
class Sample:
    """Events that were read."""

    seen: Seen
    batches: list[Batch] = field(default_factory=list)
    events: int = 0
    unread: list[tuple[str, str]] = field(default_factory=list)  # place and why
    more: bool = False  # the file goes on


def _read(file: str, events_max: int) -> Sample:
    from eagleray.cluster.events.sampled import Seen

    sample, size = Sample(Seen()), 0
    with opened(file) as (source, _):
        for batch in read_batches(source, "auto", min(BATCH_EVENTS, events_max), BATCH_BYTES):
            if sample.events >= events_max or size > BYTES_MAX:
                sample.more = True
                break
            size += len(batch.body)
            _take(sample, batch)
    if not sample.events:
        first = f"; the first: {': '.join(sample.unread[0])}" if sample.unread else ""
        raise EaglerayError(f"{file}: no JSON object in it{first}; expected one object a line, or an array of objects")
    return sample


def _take(sample: Sample, batch: Batch) -> None:
    from eagleray.cluster.events.json_text import Malformed, parse

    sample.batches.append(batch)
    for place, raw in zip(batch.places, _events(batch), strict=True):
        try:
            event = parse(raw)
        except (Malformed, RecursionError) as error:
            sample.unread.append((f"{batch.unit} {place}", str(error)))
            continue
        if isinstance(event, dict):
            sample.seen.add(event)
            sample.events += 1
        else:
            sample.unread.append((f"{batch.unit} {place}", "not a JSON object"))


def _events(batch: Batch) -> Sequence[bytes]:
    from eagleray.cluster.events.json_text import elements

    return batch.body.split(b"\n") if batch.unit == "line" else elements(batch.body)


@dataclass(frozen=True)
class Proposal:
    """What is proposed: texts of a schema file, and of a stream below `streams:`."""

    schema: str
    stream: str
    notes: list[str]
    arrival: bool  # no event time was found


def proposed(name: str, seen: Seen, now_us: int) -> Proposal:
    """Schema and stream of what was seen."""
    from eagleray.cluster.events import stream_guess
    from eagleray.cluster.events.inference import inferred

    made = inferred(seen, name)
    times = stream_guess.times(made.sure, now_us)
    ids = stream_guess.ids(made.sure)
    time = times[0] if times else None
    id_ = ids[0] if ids else None
    keys = stream_guess.keys(made.sure, {one.path for one in (time, id_) if one})
    key = keys[0] if keys else None
    lines: list[str] = [f"schema: {name}.schema.json"]
    if time is None:
        lines += _arrival(made)
    else:
        lines += _setting("time", time.text, time.reason, stream_guess.shown(times, time))
        if "time_zone" in time.settings:
            lines += ["# texts of `time` name no zone: whose clock is it?"]
        lines += [_yaml({setting: value}) for setting, value in time.settings.items()]
    for what, one, found in (("id", id_, ids), ("key", key, keys)):
        if one is None:
            lines.append(f"# {what}: {_WITHOUT[what]}")
        else:
            lines += _setting(what, one.text, one.reason, stream_guess.shown(found, one))
    if time is None or (len(time.path) == 1 and time.settings.keys() <= {"max_out_of_orderness"}):
        field_ = stream_guess.ARRIVAL if time is None else time.text
        if time is None or made.sure[time.path].format == "date-time":
            lines.append(_yaml({"lake": {"partition_by": [f"day({field_})"], "sort_by": [field_]}}))
    text = "".join(f"    {line}\n" for line in lines)
    return Proposal(_json(made.document), f"  {name}:\n{text}", made.notes, time is None)


_WITHOUT = {
    "id": "no field whose values never repeat looks like an id; without one, only `Idempotency-Key` deduplicates",
    "key": "no field stands out; order is kept per key",
}


def _arrival(made: Inferred) -> Iterator[str]:
    """A stream without a time in its events: they get their arrival."""
    from eagleray.cluster.events.stream_guess import ARRIVAL

    made.document.setdefault("properties", {})[ARRIVAL] = {"type": "string", "format": "date-time"}
    yield "# no field is a time in every event: the arrival stands for it"
    yield f"time: {ARRIVAL}"
    yield "time_missing: arrival"


def _setting(name: str, value: str, *comments: str) -> Iterator[str]:
    import textwrap

    for comment in filter(None, comments):
        yield from (f"# {line}" for line in textwrap.wrap(f"{name}: {comment}", WIDTH))
    yield _yaml({name: value})


def _yaml(setting: dict[str, Any]) -> str:
    (name, value), *_ = setting.items()
    text = yaml.safe_dump(value, default_flow_style=True, width=1_000, allow_unicode=True)
    return f"{name}: {text.removesuffix('...' + chr(10)).rstrip()}"


def _json(document: dict[str, Any]) -> str:
    """Indented; what fits a line is on one."""
    return "\n".join(_laid_out(document, ""))


def _laid_out(value: Any, indent: str) -> list[str]:
    whole = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or len(indent) + len(whole) <= WIDTH:
        return [whole]
    if isinstance(value, list):
        return _listed(value, indent)
    lines = ["{"]
    for at, (name, below) in enumerate(value.items()):
        first, *rest = _laid_out(below, indent + "  ")
        lines += [f"{indent}  {json.dumps(name, ensure_ascii=False)}: {first}", *rest]
        lines[-1] += "," if at < len(value) - 1 else ""
    return [*lines, indent + "}"]


def _listed(values: list[Any], indent: str) -> list[str]:
    """As many on a line as fit."""
    lines = [""]
    for at, value in enumerate(values):
        text = json.dumps(value, ensure_ascii=False) + ("," if at < len(values) - 1 else "")
        if lines[-1] and len(indent) + len(lines[-1]) + len(text) > WIDTH:
            lines.append("")
        lines[-1] += f" {text}" if lines[-1] else text
    return ["[", *(f"{indent}  {line}" for line in lines), f"{indent}]"]


def tried(name: str, made: Proposal, batches: list[Batch], now_us: int) -> list[tuple[str, str]]:
    """The places of the samples that the stream refuses, each with why; raises ConfigError for a stream that is none.

    The files are written aside and loaded as `up` would load them.
    """
    from eagleray.cluster.events.judge import Judge
    from eagleray.cluster.events.stream import load_streams
    from eagleray.cluster.events.verdict import Submission
    from eagleray.cluster.lake.table_layout import check_layout

    with tempfile.TemporaryDirectory() as aside:
        Path(aside, f"{name}.schema.json").write_text(made.schema)
        file = Path(aside, "eagleray.yaml")
        file.write_text(f"streams:\n{made.stream}")
        config = load_config(file, environ={})
        stream = load_streams(config)[name]
        check_layout(f"streams.{name}.lake", stream)
        judge = Judge(stream, config.edge, 1)
        refused = []
        for batch in batches:
            form = "ndjson" if batch.unit == "line" else "json"
            (answer,) = judge.judge([Submission(name, form, batch.body)], now_us).answers  # type: ignore[arg-type]
            refused += [(f"{batch.unit} {batch.places[at]}", f"{why}: {said}") for at, why, said in answer.rejected]
    return refused


def _write(config_file: Path, name: str, made: Proposal) -> None:
    """The schema beside the configuration, and the stream in it; raises ConfigError, having written nothing."""
    schema = config_file.parent / f"{name}.schema.json"
    if schema.exists():
        raise ConfigError(str(schema), "is there already; nothing was written (--stream gives another name)")
    before = config_file.read_text() if config_file.exists() else ""
    after = _with_stream(config_file, before, name, made.stream)
    mode = config_file.stat().st_mode & 0o777 if before else 0o644
    try:
        write_whole(schema, made.schema + "\n")
        schema.chmod(mode)
        write_whole(config_file, after)
        config_file.chmod(mode)
    except OSError as error:
        raise ConfigError(str(config_file.parent), f"cannot be written: {error}") from error
    print(f"wrote {schema}\nwrote {config_file}: streams.{name}")


def _with_stream(file: Path, before: str, name: str, stream: str) -> str:
    """The configuration with one more stream, every other line as it was; raises ConfigError where that cannot be."""
    there = yaml.safe_load(before) or {}
    if not isinstance(there, dict) or not isinstance(there.get("streams") or {}, dict):
        raise ConfigError(str(file), "expected a mapping with `streams`; nothing was written")
    if name in (there.get("streams") or {}):
        raise ConfigError(str(file), f"streams.{name} is there already; nothing was written (--stream: another name)")
    if "streams" not in there:
        after = f"{before}{'' if not before or before.endswith(chr(10)) else chr(10)}streams:\n{stream}"
    else:
        after = re.sub(
            r"^streams:[ \t]*(?:\{\})?[ \t]*(#.*)?$", _grown(before, stream), before, count=1, flags=re.MULTILINE
        )
    wanted = {**there, "streams": {**(there.get("streams") or {}), **yaml.safe_load(stream)}}
    if yaml.safe_load(after) != wanted:
        raise ConfigError(
            str(file), "its `streams:` is not written as a block, one stream below the other; nothing was written"
        )
    return after


def _grown(before: str, stream: str) -> Any:
    """The line `streams:` and the new stream below it, as deep as the streams that are there."""
    match = re.search(r"^streams:[^\n]*\n(?:[ \t]*(?:#[^\n]*)?\n)*( +)\S", before, re.MULTILINE)
    indent = match[1] if match else "  "
    text = "".join(indent + line[2:] for line in stream.splitlines(keepends=True)).rstrip("\n")
    return lambda found: f"streams:{'  ' + found[1] if found[1] else ''}\n{text}"


def _report(sample: Sample, made: Proposal, refused: list[tuple[str, str]]) -> None:
    """What was seen and what came of it, on stderr."""
    more = " (of more)" if sample.more else ""
    unread = f"; {len(sample.unread):,} more are no events" if sample.unread else ""
    print(f"{sample.events:,} events read{more}{unread}", file=sys.stderr)
    for note in made.notes:
        print(f"  {note}", file=sys.stderr)
    if made.arrival:
        print("  no field is a time in every event: events get their arrival", file=sys.stderr)
    places = {place for place, _ in sample.unread}
    others = [one for one in refused if one[0] not in places]
    print(f"{sample.events - len(others):,} of {sample.events:,} are accepted by the schema", file=sys.stderr)
    shown: Counter[str] = Counter()
    for place, why in [*sample.unread, *others]:
        kind = why.partition(":")[0]
        shown[kind] += 1
        if shown[kind] <= SHOWN:
            print(f"  {place}: {why}", file=sys.stderr)
