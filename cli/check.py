"""`eagleray check`: reads everything that `up` would, beside the tables as they are, and says what it would do.

Nothing is written, and nothing has to run or to stand still.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.one_machine import check_nodes

if TYPE_CHECKING:
    from eagleray.cluster.events.stream import Stream
    from eagleray.cluster.lake.pin import Snapshots
    from eagleray.cluster.lake.schema_evolution import TableChange


def check(
    changes: Annotated[bool, typer.Option("--changes", help="Say what `up` would change, or refuse.")] = False,
    nodes: Annotated[int, typer.Option(min=1, help="For a Ray cluster of so many nodes.")] = 1,
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Check configuration, schemas, jobs, and how they fit the tables; exits 2 for what `up` would refuse."""
    config = load_config(config_file)
    check_nodes(config, nodes)
    streams, jobs = _project(config)
    from eagleray.cluster.lake.pin import open_snapshots

    lake = open_snapshots(config)
    found = table_changes(lake, streams)
    partitions = _partitions(config)
    if changes:
        lines = [] if partitions is None else [f"log.partitions: refused: {partitions}"]
        lines += [line for change in found for line in said(change)]
        if lake.names():
            lines += [*window_changes(config, streams), *left_behind(lake, config)]
        print("\n".join(lines) if lines else "nothing changes")
    if partitions is not None:
        raise ConfigError("log.partitions", partitions)
    for change in found:
        change.check(str(config.file))
    if not changes:
        windows = sum(len(stream.windows) for stream in streams.values())
        print(f"{config.file}: {len(streams)} streams, {windows} windows, {jobs} jobs: ok")


def _partitions(config: Config) -> str | None:
    """Why the log cannot have the number of partitions that the file says."""
    from eagleray.cluster.log.embedded import partitions_problem

    return partitions_problem(config.log_dir, config.log.partitions) if config.log.backend == "embedded" else None


def _project(config: Config) -> tuple[Mapping[str, Stream], int]:
    """The streams, and how many jobs there are; raises ConfigError."""
    from eagleray.cluster.events.stream import load_streams
    from eagleray.cluster.lake.table_layout import check_layout
    from eagleray.jobs.project.load import load_project

    if not config.streams:
        raise ConfigError(f"{config.file}: streams", "expected at least one stream")
    if config.log.backend == "kafka":
        from eagleray.cluster.log.backends import check_kafka

        check_kafka(config)
    streams = load_streams(config)
    for name, stream in streams.items():
        check_layout(f"{config.file}: streams.{name}.lake", stream)
    return streams, len(load_project(config).jobs) if config.jobs_folder.is_dir() else 0


def table_changes(lake: Snapshots, streams: Mapping[str, Stream]) -> list[TableChange]:
    """What `up` would do to each table of `streams`; raises ConfigError for a wrong layout."""
    from eagleray.cluster.lake.schema_evolution import planned_change
    from eagleray.cluster.lake.stream_tables import table_specs

    specs = [spec for stream in streams.values() for spec in table_specs(stream)]
    pinned = lake.pin(spec.name for spec in specs)
    there = {name: table.iceberg() for name, table in pinned.items()}
    return [planned_change(there.get(spec.name), spec) for spec in specs]


def said(change: TableChange) -> Iterator[str]:
    """A line for each thing that changes in a table."""
    table = change.spec.name
    if change.new:
        yield f"{table}: is made"
    for column in change.columns:
        if column.applied or column in change.rewritten:
            since = "; null in rows of before" if column.verdict == "added" else ""
            yield f"{table}: {column}{since}"
        else:
            yield f"{table}: refused: {column}: {change.advice(column)}"
    if change.partitions is not None:
        yield f"{table}: new files are partitioned by {change.partitions}; files of before stay as they are"
    if change.order is not None:
        yield f"{table}: new files are sorted by {change.order}; files of before stay as they are"


def window_changes(config: Config, streams: Mapping[str, Stream]) -> Iterator[str]:
    """What becomes of windows and time settings, by the definitions that the tables have recorded."""
    from eagleray.cluster.lake.lake import Lake
    from eagleray.cluster.lake.window_history import recorded_settings
    from eagleray.cluster.windowing.changes import compare, settings_of

    lake = Lake.open(config)
    for name, stream in streams.items():
        before = recorded_settings(lake, stream)
        if before is not None:
            yield from map(str, compare(name, before, settings_of(stream)))


def left_behind(lake: Snapshots, config: Config) -> Iterator[str]:
    """Streams that have tables and are no longer in the configuration."""
    streams = {name.partition(".")[0] for name in lake.names() if name.endswith(".dead_letters")}
    for stream in sorted(streams - set(config.streams)):
        yield f"streams.{stream}: is not in the configuration: its tables stay, and nothing is added to them"
