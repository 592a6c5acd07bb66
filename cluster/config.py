"""The configuration: one YAML file read once into frozen models, passed down to everything else.

`load_config` is the only reader of the environment (`EAGLERAY__SECTION__KEY` overrides the file). Unknown keys, wrong
types and values out of range raise ConfigError naming file and key. What needs a stream's schema (fields in `time`,
`key`, `group_by`, aggregates, filters) is checked by `cluster.events.stream.load_streams`, before anything starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.quantities import parse_duration

NAME = r"^[a-z][a-z0-9_]{0,62}$"
Name = Annotated[str, Field(pattern=NAME)]

SQL_NAMES = frozenset({"information_schema", "main", "memory", "pg_catalog", "system", "temp"})
"""Catalogs and schemas that SQL has of its own: a stream's tables would be hidden by them, or hide them."""


def _not_of_sql(name: str) -> str:
    if name in SQL_NAMES:
        raise ValueError(f"SQL has a schema or catalog of this name; expected any but {', '.join(sorted(SQL_NAMES))}")
    return name


StreamName = Annotated[Name, AfterValidator(_not_of_sql)]


def _microseconds(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


DurationUs = Annotated[int, BeforeValidator(_microseconds), Field(ge=0)]
PositiveUs = Annotated[int, BeforeValidator(_microseconds), Field(gt=0)]

MIB = 1 << 20


class Section(BaseModel):
    """A part of the configuration: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class EdgeConfig(Section):
    """The HTTP edge. `auth: off` is allowed on a loopback host only."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)  # 0: any free port
    processes: int = Field(default=1, ge=1, le=64)  # edge actors per node, sharing the port by SO_REUSEPORT
    auth: Literal["required", "off"] = "required"
    body_bytes_max: int = Field(default=8 * MIB, gt=0)  # as received, compressed
    inflated_bytes_max: int = Field(default=64 * MIB, gt=0)
    event_bytes_max: int = Field(default=1 * MIB, gt=0)
    events_max: int = Field(default=100_000, gt=0)  # events of one request
    depth_max: int = Field(default=64, ge=1, le=512)  # nesting of one event
    in_flight_bytes_max: int = Field(default=64 * MIB, gt=0)  # inflated bodies between edge and ack; full: 429
    batch_delay_ms: float = Field(default=2.0, ge=0, le=1000)
    batch_bytes_max: int = Field(default=1 * MIB, gt=0)
    header_timeout_s: float = Field(default=10.0, gt=0)
    body_timeout_s: float = Field(default=30.0, gt=0)  # older = slower senders tolerated
    ack_timeout_s: float = Field(default=10.0, gt=0)  # a log slower than this: 503
    query_timeout_s: float = Field(default=30.0, gt=0)
    drain_timeout_s: float = Field(default=10.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _yaml_off(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("auth") is False:  # YAML 1.1 reads a bare `off` as false
            return {**data, "auth": "off"}
        return data

    @model_validator(mode="after")
    def _no_open_door(self) -> EdgeConfig:
        if self.auth == "off" and self.host not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError(f"auth: off needs a loopback host (127.0.0.1, localhost or ::1), not {self.host!r}")
        return self


class LogConfig(Section):
    """The event log. `partitions` is fixed when the data directory is first used."""

    backend: Literal["embedded", "memory", "kafka"] = "embedded"
    partitions: int = Field(default=4, ge=1, le=1024)
    retention_hours: float = Field(default=24.0, gt=0)
    append_timeout_s: float = Field(default=5.0, gt=0)
    brokers: tuple[str, ...] = ()


class CatalogConfig(Section):
    """The Iceberg catalog: anything that pyiceberg's `load_catalog` takes; `sql` by default."""

    model_config = ConfigDict(frozen=True, extra="allow")
    type: str = "sql"
    uri: str | None = None  # default: sqlite in data_dir/catalog.db


class LakeConfig(Section):
    """Where tables live and how often they are committed."""

    warehouse: str | None = None  # default: data_dir/lake
    catalog: CatalogConfig = CatalogConfig()
    commit_interval_s: float = Field(default=2.0, gt=0)  # older = fewer small files
    file_bytes_max: int = Field(default=128 * MIB, gt=0)
    replaced_files_kept: DurationUs = 3_600_000_000  # for readers that began before compaction or a job replaced them
    snapshots_kept: int = Field(default=100, ge=2, le=500)  # pyiceberg copies this list on each commit
    query_memory_max: int = Field(default=1024 * MIB, gt=0)


class TimetableEntry(Section):
    """A built-in job, or a run of late dates, at times of the clock."""

    run: str  # what would stand after `eagleray job run`
    schedule: str  # five cron fields
    timezone: str | None = None  # default: jobs.timezone


class JobsConfig(Section):
    """The batch plane: where jobs are declared, where their history is, what they may use."""

    folder: str = "jobs"  # beside the configuration file
    history: str | None = None  # SQLAlchemy URL; default: sqlite in data_dir/jobs.db
    concurrency: int | None = Field(default=None, ge=1)  # runs at once; default: the cluster's cores
    memory_max: int = Field(default=1024 * MIB, gt=0)  # of one run, unless the job says otherwise
    timezone: str = "UTC"  # of logical dates and schedules, unless the job says otherwise
    timetable: tuple[TimetableEntry, ...] = ()  # maintenance, and late dates


class RayConfig(Section):
    """The Ray cluster that is joined with `--address`."""

    insecure: bool = False  # join also a cluster that asks for no token: whoever reaches it runs code


class PoolConfig(Section):
    """How many workers a pool may have."""

    min: int = Field(default=1, ge=1, le=1024)
    max: int = Field(default=2, ge=1, le=1024)

    @model_validator(mode="after")
    def _ordered(self) -> PoolConfig:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class PoolsConfig(Section):
    """The three pools of workers."""

    validate_: PoolConfig = Field(default=PoolConfig(min=2, max=4), alias="validate")
    window: PoolConfig = PoolConfig(min=1, max=2)
    writer: PoolConfig = PoolConfig(min=1, max=2)


class StreamLakeConfig(Section):
    """Layout of a stream's `events` table."""

    partition_by: tuple[str, ...] = ()  # "day(time)", "hour(time)", "bucket(16, user)", "truncate(4, user)", "channel"
    sort_by: tuple[str, ...] = ()


class WindowConfig(Section):
    """A window as written: exactly one of `tumble`, `hop` (with `every`) and `session_gap`."""

    tumble: PositiveUs | None = None
    hop: PositiveUs | None = None
    every: PositiveUs | None = None
    session_gap: PositiveUs | None = None
    group_by: tuple[str, ...] = ()
    aggregate: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,62}$")], str] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_kind(self) -> WindowConfig:
        kinds = [name for name in ("tumble", "hop", "session_gap") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"expected exactly one of tumble, hop and session_gap, found {', '.join(kinds) or 'none'}")
        if (self.hop is None) != (self.every is None):
            raise ValueError("hop and every go together")
        if self.hop is not None and self.every is not None and (self.every > self.hop or self.hop // self.every > 1000):
            raise ValueError("expected every ≤ hop, and at most 1000 windows per event")
        return self


class StreamConfig(Section):
    """One stream of events."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())
    schema_: str = Field(alias="schema")  # JSON Schema file beside the configuration, or "package.module:PydanticModel"
    time: str
    time_unit: Literal["s", "ms", "us", "ns"] | None = None  # for an integer time field; absent: RFC 3339 text
    id: str | None = None
    key: str | None = None
    max_out_of_orderness: DurationUs = 10_000_000
    allowed_lateness: DurationUs = 30_000_000
    idle_timeout: PositiveUs = 10_000_000
    max_future: DurationUs = 3_600_000_000
    dedup_horizon: PositiveUs = 3_600_000_000
    lake: StreamLakeConfig = StreamLakeConfig()
    filter: str | None = None
    windows: Mapping[Name, WindowConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _reserved(self) -> StreamConfig:
        taken = {"events", "late", "dead_letters"} & set(self.windows)
        if taken:
            raise ValueError(f"a window cannot be called {taken.pop()!r}: every stream has a table of that name")
        return self


class Config(Section):
    """The whole configuration. `file` is where it came from; relative paths are relative to its directory."""

    file: Path = Path("eagleray.yaml")
    data_dir: Path = Path("data")
    edge: EdgeConfig = EdgeConfig()
    log: LogConfig = LogConfig()
    lake: LakeConfig = LakeConfig()
    pools: PoolsConfig = PoolsConfig()
    jobs: JobsConfig = JobsConfig()
    ray: RayConfig = RayConfig()
    streams: Annotated[Mapping[StreamName, StreamConfig], AfterValidator(dict)] = Field(default_factory=dict)

    @property
    def warehouse(self) -> str:
        """Where table files live: a path or an object-store URI."""
        return self.lake.warehouse or str(self.data_dir / "lake")

    @property
    def catalog_uri(self) -> str:
        """The catalog's URI."""
        return self.lake.catalog.uri or f"sqlite:///{self.data_dir / 'catalog.db'}"

    @property
    def log_dir(self) -> Path:
        """The embedded log's directory."""
        return self.data_dir / "log"

    @property
    def state_dir(self) -> Path:
        """Snapshots of worker state, a cache of the log."""
        return self.data_dir / "state"

    @property
    def logs_dir(self) -> Path:
        """Logs of every actor."""
        return self.data_dir / "logs"

    @property
    def jobs_folder(self) -> Path:
        """Where the project's jobs are declared."""
        return self.file.parent / self.jobs.folder

    @property
    def jobs_history(self) -> str:
        """The SQLAlchemy URL of the jobs' history."""
        return self.jobs.history or f"sqlite:///{self.data_dir / 'jobs.db'}"

    @property
    def jobs_dir(self) -> Path:
        """Logs and temporary files of job runs."""
        return self.data_dir / "jobs"

    @property
    def keys_file(self) -> Path:
        """The API keys' database."""
        return self.data_dir / "keys.db"


def load_config(
    file: Path,
    *,
    data_dir: Path | None = None,
    port: int | None = None,
    insecure_ray: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read `file` with overrides from the environment and the command line; raises ConfigError."""
    try:
        raw = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise ConfigError(str(file), "no such file; `eagleray init DIR` makes a project that has one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), f"not readable: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(str(file), f"not YAML: {error}") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(str(file), f"expected a mapping of sections, found {type(raw).__name__}")
    _override(raw, os.environ if environ is None else environ)
    if data_dir is not None:
        raw["data_dir"] = str(data_dir.absolute())
    if port is not None:
        raw.setdefault("edge", {})["port"] = port
    if insecure_ray:
        raw.setdefault("ray", {})["insecure"] = True
    try:
        config = Config.model_validate({**raw, "file": file})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        hint = f", found {first['input']!r}" if first["type"] not in ("missing", "extra_forbidden") else ""
        message = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{file}: {key}", f"{message}{hint}") from None
    return _anchored(config)


def _override(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    for variable, text in environ.items():
        if variable.startswith("EAGLERAY__"):
            *sections, key = variable.removeprefix("EAGLERAY__").lower().split("__")
            target = raw
            for section in sections:
                target = target.setdefault(section, {})
            target[key] = yaml.safe_load(text)


def _anchored(config: Config) -> Config:
    root = config.file.absolute().parent
    lake = config.lake
    if lake.warehouse and "://" not in lake.warehouse:
        lake = lake.model_copy(update={"warehouse": str((root / lake.warehouse).resolve())})
    uri = lake.catalog.uri
    if uri and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        anchored = f"sqlite:///{(root / uri.removeprefix('sqlite:///')).resolve()}"
        lake = lake.model_copy(update={"catalog": lake.catalog.model_copy(update={"uri": anchored})})
    return config.model_copy(
        update={"file": config.file.absolute(), "data_dir": (root / config.data_dir).resolve(), "lake": lake}
    )
