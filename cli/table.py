"""`eagleray table`: changes what `up` or a job would not change by itself: types and names of columns, names of tables.

A table that the configured streams write is changed only while no platform runs; the tables of jobs at any time, for
a run that wrote for the table as it was is refused and runs again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eagleray.cli import completion
from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.near_names import instead
from eagleray.cluster.project_lock import project_lock

if TYPE_CHECKING:  # loaded when a command runs
    from eagleray.cluster.events.field_path import FieldPath
    from eagleray.cluster.lake.lake import Lake, Retyped
    from eagleray.cluster.lake.stream_tables import TableSpec

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Table = Annotated[
    str, typer.Argument(metavar="TABLE", help="A table, as NAMESPACE.TABLE.", autocompletion=completion.tables)
]
Keep = Annotated[
    list[str] | None,
    typer.Option(help="COLUMN=NAME: the old values of a column that is written anew stay, as NAME."),
]
Lose = Annotated[bool, typer.Option(help="Values that the new type cannot hold become null.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it the command says what it would do.")]


@app.callback()
def _group() -> None:
    """Alter, migrate, rename and drop tables."""


@app.command()
def alter(
    table: Table,
    types: Annotated[list[str] | None, typer.Option("--type", help="COLUMN=TYPE, such as v=double.")] = None,
    renames: Annotated[list[str] | None, typer.Option("--rename", help="COLUMN=NAME.")] = None,
    drops: Annotated[list[str] | None, typer.Option("--drop-column", help="A column that goes.")] = None,
    keep: Keep = None,
    lose: Lose = False,
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Change columns of a table: types, in place or by writing its files anew, and names."""
    from eagleray.cluster.events.field_path import FieldPath
    from eagleray.cluster.lake.type_names import with_type

    config, lake = _open(config_file, table)
    if not (types or renames or drops):
        raise ConfigError("eagleray table alter", "expected --type, --rename or --drop-column")
    wanted = lake.pin(table).schema
    try:
        named = {FieldPath.parse(path): name for path, name in _pairs("--rename", renames).items()}
        gone = [FieldPath.parse(path) for path in drops or ()]
        for path, kind in _pairs("--type", types).items():
            wanted = with_type(wanted, FieldPath.parse(path), kind)
    except ValueError as error:
        raise ConfigError(f"table {table}", str(error)) from None
    with _unwritten(config, lake, table):
        _check_stored(config, lake, table, named)
        if types:
            done = lake.retype(table, wanted, _pairs("--keep", keep), lose=lose)
            _say(table, done) if done else print(f"{table}: no file has to be written anew")
            lake.widen(table, wanted)
        if gone:
            lake.drop_columns(table, gone)
            print(f"{table}: without {', '.join(path.text for path in gone)}")
        if named:
            lake.rename_columns(table, named)
            print(f"{table}: {', '.join(f'{path.text} is {name} now' for path, name in named.items())}")
    _warn_dependents(config, table)


@app.command()
def migrate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A stream, or one of its tables: STREAM.TABLE.")],
    keep: Keep = None,
    lose: Lose = False,
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Give a stream's tables the types that the configuration says, by writing their files anew where it takes that."""
    from eagleray.cluster.events.stream import load_streams
    from eagleray.cluster.lake.lake import Lake

    config = load_config(config_file)
    stream = load_streams(config).get(name.partition(".")[0])
    if stream is None:
        wanted = name.partition(".")[0]
        raise ConfigError("NAME", f"no stream is called {wanted!r}{instead(wanted, config.streams)}")
    with project_lock(config):
        lake = Lake.open(config)
        changes = [one for one in lake.changes({stream.name: stream}) if name in (stream.name, one.spec.name)]
        if not changes:
            raise ConfigError("NAME", f"the stream {stream.name} has no table {name}")
        for change in changes:
            if not change.new:
                _migrate(lake, change.spec, _pairs("--keep", keep), lose)


def _migrate(lake: Lake, spec: TableSpec, kept: Mapping[str, str], lose: bool) -> None:
    done = lake.retype(spec.name, spec.columns, kept, lose=lose)
    lake.widen(spec.name, spec.columns)
    _say(spec.name, done) if done else print(f"{spec.name}: as configured")


@app.command()
def rename(
    table: Table,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its new name, as NAMESPACE.TABLE.")],
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Give a table another name; its files, rows and history stay. A stream's own tables follow the configuration."""
    config, lake = _open(config_file, table)
    _check_name(name)
    _check_free(config, table, "renamed")
    if _owned(config, name):
        raise ConfigError("NAME", f"{name} is a table of the stream {name.partition('.')[0]}: choose another name")
    with _unwritten(config, lake, table):
        lake.rename_table(table, name)
    print(f"{table} is {name} now")
    _warn_dependents(config, table)


@app.command()
def drop(
    table: Annotated[str, typer.Argument(metavar="NAME", help="A table, or a stream with its tables and its log.")],
    yes: Yes = False,
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Delete a table with all its rows: of a job, or of a stream or window that the configuration no longer has."""
    if "." not in table:
        _drop_stream(load_config(config_file), table, yes)
        return
    config, lake = _open(config_file, table)
    _check_free(config, table, "dropped")
    readers, makers = _dependents(config, table)
    said = [f"the job {', '.join(makers)} makes it"] * bool(makers)
    said += [f"{', '.join(readers)} read it"] * bool(readers)
    if not yes:
        rows = lake.pin(table).plan().rows
        depends = f" ({'; '.join(said)})" if said else ""
        raise ConfigError(f"table {table}", f"{rows:,} rows would be deleted{depends}; run it with --yes to do so")
    with _unwritten(config, lake, table):
        lake.drop_table(table)
    print(f"{table} is dropped" + (f"; {'; '.join(said)}" if said else ""))


def _drop_stream(config: Config, stream: str, yes: bool) -> None:
    """All tables of a stream that left the configuration, then its log and the workers' caches."""
    from eagleray.cluster.lake.lake import Lake
    from eagleray.cluster.lake.progress import PROPERTY
    from eagleray.cluster.log.backends import drop_log, log_of
    from eagleray.cluster.log.lineage import PROPERTY as LINEAGE
    from eagleray.cluster.state.backends import open_state

    if stream in config.streams:
        raise ConfigError(f"stream {stream}", f"it is in the configuration; take it out of {config.file} first")
    with project_lock(config):
        lake = Lake.open(config)
        tables = [name for name in lake.tables(stream) if {PROPERTY, LINEAGE} & lake.properties(name).keys()]
        log = log_of(config, stream)
        if not tables and not log:
            raise ConfigError("NAME", f"no stream was called {stream!r}: it has neither tables nor a log")
        if not yes:
            rows = sum(lake.pin(name).plan().rows for name in tables)
            said = f"{', '.join(tables) or 'no tables'} with {rows:,} rows, and {log or 'no log'}, would be deleted"
            raise ConfigError(f"stream {stream}", f"{said}; run it with --yes to do so")
        for name in tables:
            lake.drop_table(name)
        with closing(open_state(config)) as state:
            state.forget(stream)
        drop_log(config, stream)  # last: without it nothing is left to go on with
    print(f"{stream} is dropped: {len(tables)} tables, and its log")


# ── shared ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _open(config_file: Path, table: str) -> tuple[Config, Lake]:
    from eagleray.cluster.lake.lake import Lake
    from eagleray.cluster.lake.pin import open_snapshots

    config = load_config(config_file)
    there = open_snapshots(config).names()
    if table not in there:
        raise ConfigError("TABLE", f"there is no table {table!r}{instead(table, there, 'none yet')}")
    return config, Lake.open(config)


def _owned(config: Config, table: str) -> bool:
    """Whether a configured stream writes the table."""
    from eagleray.jobs.project.load import stream_tables

    return table in stream_tables(config)


def _check_free(config: Config, table: str, done: str) -> None:
    if _owned(config, table):
        stream = table.partition(".")[0]
        problem = f"it is a table of the stream {stream}, which would make it anew"
        raise ConfigError(f"table {table}", f"cannot be {done}: {problem}; take that out of {config.file} first")


def _check_name(name: str) -> None:
    import re

    from eagleray.cluster.sections import NAME, SQL_NAMES

    parts = name.split(".")
    if len(parts) != 2 or not all(re.fullmatch(NAME, part) for part in parts) or parts[0] in SQL_NAMES:
        raise ConfigError("NAME", f"{name!r} is no name of a table; expected NAMESPACE.TABLE of a-z, 0-9 and _")


def _check_stored(config: Config, lake: Lake, table: str, renames: Mapping[FieldPath, str]) -> None:
    """Events in the log have the old name: those that are not stored yet would not be as their neighbours are."""
    from eagleray.cluster.column_names import column_key
    from eagleray.cluster.continuity import waiting
    from eagleray.cluster.log.backends import open_log

    stream, _, last = table.partition(".")
    if last != "events" or not _owned(config, table):
        return
    if all(column_key(path.names[-1]) == column_key(name) for path, name in renames.items()):
        return  # the log's columns are found however they are written
    with closing(open_log(config)) as log:
        events = waiting(log, stream, lake.progress(table))
    if events:
        problem = f"{events:,} acked events in the log are not stored yet, and have the old name"
        raise ConfigError(
            f"table {table}", f"{problem}: run `eagleray up` with the old schema, stop it, and run this again"
        )


@contextmanager
def _unwritten(config: Config, lake: Lake, table: str) -> Iterator[None]:
    """While nobody writes the table: a stream's workers go by the columns that they found when they started.

    A platform that was started before the stream left the configuration still writes it.
    """
    from eagleray.cluster.lake.progress import PROPERTY

    with ExitStack() as stack:
        if _owned(config, table) or PROPERTY in lake.properties(table):
            stack.enter_context(project_lock(config))
        yield


def _pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    found = {}
    for text in texts or ():
        left, equals, right = text.rpartition("=")
        if not (left and equals and right):
            raise ConfigError(option, f"expected COLUMN=…, not {text!r}")
        found[left] = right
    return found


def _say(table: str, done: Retyped) -> None:
    print(f"{table}: {', '.join(done.columns)} written anew, {done.rows:,} rows")
    if done.unfitting:
        print(f"{table}: not held by the new type: {done.unfitting}")


def _dependents(config: Config, table: str) -> tuple[list[str], list[str]]:
    """The jobs that read the table, and the one that makes it."""
    from eagleray.jobs.project.load import load_project

    try:
        jobs = load_project(config).jobs.values()
    except EaglerayError as error:
        print(f"the jobs cannot be read, so what depends on {table} is not known: {error}")
        return [], []
    return [job.name for job in jobs if table in job.inputs], [job.name for job in jobs if job.output == table]


def _warn_dependents(config: Config, table: str) -> None:
    readers, makers = _dependents(config, table)
    if makers:
        print(f"the job {', '.join(makers)} makes {table}: see that its result fits")
    if readers:
        print(f"{', '.join(readers)} read {table}: see that they still say what is meant")
