"""The configuration: one YAML file read once into frozen models, passed down to everything else.

`load_config` is the only reader of the environment (`EAGLERAY__SECTION__KEY` overrides the file). Unknown keys, wrong
types and values out of range raise ConfigError naming file and key. What needs a stream's schema (fields in `time`,
`key`, `group_by`, aggregates, filters) is checked by `cluster.events.stream.load_streams`, before anything starts.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.log.ingest_clock import Anchor
from eagleray.cluster.log.protocol import Epoch
from eagleray.cluster.near_names import instead
from eagleray.cluster.sections import (
    LOOPBACK,
    RECORD_SLACK_BYTES,
    EdgeConfig,
    JobsConfig,
    LakeConfig,
    LogConfig,
    PoolsConfig,
    RayConfig,
    S3Config,
    Section,
    SloConfig,
    SqlConfig,
    StateConfig,
    StreamConfig,
    StreamName,
    first_line,
)
from eagleray.cluster.yaml_lines import YamlError, load


class Config(Section):
    """The whole configuration. `file` is where it came from; relative paths are relative to its directory."""

    file: Path = Path("eagleray.yaml")
    data_dir: Path = Path("data")
    edge: EdgeConfig = EdgeConfig()
    log: LogConfig = LogConfig()
    lake: LakeConfig = LakeConfig()
    sql: SqlConfig = SqlConfig()
    state: StateConfig = StateConfig()
    pools: PoolsConfig = PoolsConfig()
    jobs: JobsConfig = JobsConfig()
    ray: RayConfig = RayConfig()
    slo: SloConfig = SloConfig()
    streams: Annotated[Mapping[StreamName, StreamConfig], AfterValidator(dict)] = Field(default_factory=dict)

    _epochs: Mapping[str, Epoch] | None = PrivateAttr(default=None)
    _anchor: Anchor | None = PrivateAttr(default=None)
    _seed: str = PrivateAttr(default="")

    @property
    def epochs(self) -> Mapping[str, Epoch] | None:
        """The log of each stream, where `up` has found which that is; None elsewhere."""
        return self._epochs

    @property
    def anchor(self) -> Anchor | None:
        """How the machine's clock stood when `up` started; None elsewhere."""
        return self._anchor

    @property
    def seed(self) -> str:
        """The fingerprint of the seed that ids and keys are hashed with, where `up` has found it; "" elsewhere."""
        return self._seed

    @model_validator(mode="after")
    def _no_open_wire(self) -> Config:
        wire = self.sql.postgres
        if wire is not None and self.edge.auth == "off" and wire.host not in LOOPBACK:
            raise ValueError(f"sql.postgres: edge.auth: off needs a loopback host, not {wire.host!r}")
        return self

    @model_validator(mode="after")
    def _events_fit(self) -> Config:
        limit = self.log.kafka.record_bytes_max - RECORD_SLACK_BYTES
        if self.log.backend == "kafka" and self.edge.event_bytes_max > limit:
            raise ValueError(
                f"log.kafka.record_bytes_max ({self.log.kafka.record_bytes_max}) cannot hold an event of"
                f" edge.event_bytes_max ({self.edge.event_bytes_max}); expected at least"
                f" {self.edge.event_bytes_max + RECORD_SLACK_BYTES}"
            )
        return self

    @model_validator(mode="after")
    def _ids_are_kept(self) -> Config:
        hours = self.log.kafka.topic_retention_hours
        for name, stream in self.streams.items():
            if hours is not None and hours * 3.6e9 < stream.dedup_horizon:
                raise ValueError(f"log.kafka.topic_retention_hours is shorter than streams.{name}.dedup_horizon")
        return self

    def bound(self, epochs: Mapping[str, Epoch], anchor: Anchor | None = None, seed: str = "") -> Config:
        """The same configuration for workers that may use these logs only, and no other seed than that of `seed`.

        They compare their clocks with `anchor`.
        """
        copied = self.model_copy()
        copied._epochs, copied._anchor, copied._seed = dict(epochs), anchor, seed
        return copied

    @property
    def digest(self) -> str:
        """Tells configurations apart, wherever their file is."""
        return sha256(self.model_dump_json(exclude={"file"}).encode()).hexdigest()

    @property
    def warehouse(self) -> str:
        """Where table files live: a path or an object-store URI."""
        return self.lake.warehouse or str(self.data_dir / "lake")

    @property
    def catalog_uri(self) -> str:
        """The catalog's URI."""
        return self.lake.catalog.uri or f"sqlite:///{self.data_dir / 'catalog.db'}"

    @property
    def cache_dir(self) -> Path:
        """Copies of files of the warehouse, where that is an object store."""
        return self.data_dir / "cache"

    @property
    def log_dir(self) -> Path:
        """The embedded log's directory."""
        return self.data_dir / "log"

    @property
    def state_dir(self) -> Path:
        """Snapshots of worker state, a cache of the log."""
        return self.data_dir / "state"

    @property
    def state_database(self) -> str:
        """The database of shared state."""
        return self.state.database or self.catalog_uri

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
        shared = self.state_database if self.state.backend == "shared" else None
        return self.jobs.history or shared or f"sqlite:///{self.data_dir / 'jobs.db'}"

    def secret_values(self, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """Every secret that this process can know of: what no message, log or history of jobs may show.

        The values of `jobs.secrets`, passwords in URLs, every secret of the catalog's settings, and what settings read
        from a file or the environment (`*_file`, `*_env`): those of brokers, messages and lineage, as they are now.
        """
        found = os.environ if environ is None else environ
        values = [found[name] for name in (*self.jobs.secrets, *_SECRET_VARIABLES) if found.get(name)]
        urls = [self.jobs.history, self.state.database]
        for name, value in self.lake.catalog.model_dump().items():
            if isinstance(value, str):
                urls.append(value)
                if name not in ("type", "uri") and _SECRET_NAME.search(name):
                    values.append(value)
        values += [password for url in urls if url and (password := _password(url))]
        return tuple(dict.fromkeys([*values, *_held_aside(self, found), *_keys_of_store(self.lake.s3, found)]))

    @property
    def retains(self) -> bool:
        """Whether anything is to be deleted by its age."""
        sections = [self.jobs.retention, *(stream.retention for stream in self.streams.values())]
        return any(value is not None for section in sections for value in section.model_dump().values())

    @property
    def jobs_dir(self) -> Path:
        """Logs and temporary files of job runs."""
        return self.data_dir / "jobs"

    @property
    def keys_file(self) -> Path:
        """The API keys' database."""
        return self.data_dir / "keys.db"


_SECRET_NAME = re.compile(r"secret|password|token|credential|passphrase|access.key$", re.IGNORECASE)
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN", "EAGLERAY_API_KEY")
_ASIDE = re.compile(r"(.+)_(file|env)")


def _held_aside(section: BaseModel, environ: Mapping[str, str]) -> Iterator[str]:
    """The values that settings `*_file` and `*_env` name, in all sections below; what cannot be read is none."""
    for name, value in section:
        match = _ASIDE.fullmatch(name)
        if match and match[2] == "env" and isinstance(value, str) and environ.get(value):
            yield environ[value]
        elif match and match[2] == "file" and isinstance(value, Path):
            with suppress(OSError, UnicodeDecodeError):
                yield from filter(None, [first_line(value)])
        for below in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value]:
            if isinstance(below, BaseModel):
                yield from _held_aside(below, environ)


def _keys_of_store(store: S3Config, environ: Mapping[str, str]) -> Iterator[str]:
    """The secret keys of the file that boto3 reads, of every profile."""
    file = store.credentials_file or environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    profiles = configparser.RawConfigParser()
    with suppress(OSError, UnicodeDecodeError, configparser.Error, RuntimeError):
        profiles.read(Path(file).expanduser())
        for name in profiles.sections():
            yield from (value for key, value in profiles.items(name) if _SECRET_NAME.search(key) and value)


def _password(url: str) -> str | None:
    try:
        password = urlsplit(url).password
    except ValueError:
        return None
    return unquote(password) if password else None


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
        raw = _parsed(str(file), file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(str(file), "no such file; `eagleray init DIR` makes a project that has one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), f"not readable: {error}") from error
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
        errors = error.errors()  # a name that is not there first: what is missing may be what it was meant for
        first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        hint = f", found {first['input']!r}" if first["type"] not in ("missing", "extra_forbidden") else ""
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"unknown key{instead(str(first['loc'][-1]), _keys_at(Config, first['loc'][:-1]))}"
        raise ConfigError(f"{file}: {key}", f"{message}{hint}") from None
    _check_state(config)
    return _anchored(config)


def _keys_at(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys that the section at `path` may have."""
    at = list(path)
    while at:
        fields = {info.alias or name: info for name, info in model.model_fields.items()}
        info = fields.get(str(at.pop(0)))
        inner = _section_in(info.annotation) if info is not None else None
        if info is None or inner is None:
            return []
        model, many = inner
        if many and at:  # the name of an entry, or its place in the list
            at.pop(0)
    return [info.alias or name for name, info in model.model_fields.items() if name != "file"]


def _section_in(annotation: Any, many: bool = False) -> tuple[type[BaseModel], bool] | None:
    """The section that a setting is, or that it has several of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, many
    several = many or get_origin(annotation) in (tuple, Mapping)
    return next((found for one in get_args(annotation) if (found := _section_in(one, several))), None)


def _check_state(config: Config) -> None:
    """Raise ConfigError where shared state has no server that every node reaches, and where an extra is missing."""
    if config.jobs.lineage is not None and find_spec("openlineage") is None:
        raise ConfigError(f"{config.file}: jobs.lineage", "needs the extra `lineage`: pip install 'eagleray[lineage]'")
    state, warehouse = config.state, config.warehouse
    if state.backend == "embedded":
        if state.database is not None:
            raise ConfigError(f"{config.file}: state.database", "it is for state.backend: shared")
        return
    if not config.state_database.startswith("postgresql"):
        key = "lake.catalog.uri" if state.database is None and config.lake.catalog.type == "sql" else "state.database"
        problem = "state.backend: shared keeps small rows in a database that every node reaches"
        raise ConfigError(f"{config.file}: {key}", f"{problem}; expected postgresql://USER@HOST/DATABASE")
    if not warehouse.startswith("s3://"):
        problem = f"state.backend: shared keeps files in the warehouse, and {warehouse} is on one machine"
        raise ConfigError(f"{config.file}: lake.warehouse", f"{problem}; expected s3://BUCKET/…")
    if config.jobs_history.startswith("sqlite"):
        problem = "with state.backend: shared, claims and leases must be where every node reaches them"
        raise ConfigError(f"{config.file}: jobs.history", f"{problem}; leave it out, or expected postgresql://…")


def _parsed(where: str, text: str) -> Any:
    """The value of a YAML text; raises ConfigError, one line that names the place."""
    try:
        return load(text)
    except YamlError as error:
        at = f" (line {error.line}{f', column {error.column}' if error.column else ''})"
        raise ConfigError(where, f"{error.problem}{at}") from None


def _override(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    for variable, text in environ.items():
        if variable.startswith("EAGLERAY__"):
            *sections, key = variable.removeprefix("EAGLERAY__").lower().split("__")
            target = raw
            for section in sections:
                target = target.setdefault(section, {})
                if not isinstance(target, dict):
                    raise ConfigError(variable, f"{section} is {target!r}, which has no key {key!r}")
            target[key] = _parsed(variable, text)


def _anchored(config: Config) -> Config:
    root = config.file.absolute().parent
    lake = config.lake
    if lake.warehouse and "://" not in lake.warehouse:
        lake = lake.model_copy(update={"warehouse": str((root / lake.warehouse).resolve())})
    if lake.s3.credentials_file:
        keys = str((root / lake.s3.credentials_file).expanduser().resolve())
        lake = lake.model_copy(update={"s3": lake.s3.model_copy(update={"credentials_file": keys})})
    uri = lake.catalog.uri
    if uri and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        anchored = f"sqlite:///{(root / uri.removeprefix('sqlite:///')).resolve()}"
        lake = lake.model_copy(update={"catalog": lake.catalog.model_copy(update={"uri": anchored})})
    edge = config.edge
    if (tls := edge.tls) is not None:
        files = {name: getattr(tls, name) for name in ("cert", "key", "client_ca")}
        found = {name: (root / file).absolute() for name, file in files.items() if file is not None}
        edge = edge.model_copy(update={"tls": tls.model_copy(update=found)})
    if edge.jwt is not None and "://" not in edge.jwt.jwks:
        jwt = edge.jwt.model_copy(update={"jwks": str((root / edge.jwt.jwks).absolute())})
        edge = edge.model_copy(update={"jwt": jwt})
    config = config.model_copy(
        update={"edge": edge, "log": _anchored_log(config.log, root), "jobs": _aside_anchored(config.jobs, root)}
    )
    return config.model_copy(
        update={"file": config.file.absolute(), "data_dir": (root / config.data_dir).resolve(), "lake": lake}
    )


def _aside_anchored(jobs: JobsConfig, root: Path) -> JobsConfig:
    """Files of secrets and holidays are beside the configuration."""

    def anchored(section: Any) -> Any:
        if section is None:
            return None
        found = {name: (root / value).absolute() for name, value in section if isinstance(value, Path)}
        return section.model_copy(update=found)

    notify = tuple(
        one.model_copy(update={way: anchored(getattr(one, way)) for way in ("webhook", "slack", "email")})
        for one in jobs.notify
    )
    calendars = {name: anchored(one) for name, one in jobs.calendars.items()}
    return jobs.model_copy(update={"notify": notify, "calendars": calendars, "lineage": anchored(jobs.lineage)})


def _anchored_log(log: LogConfig, root: Path) -> LogConfig:
    kafka = log.kafka
    if kafka.tls is not None:
        found = {name: (root / file).absolute() for name, file in kafka.tls if file is not None}
        kafka = kafka.model_copy(update={"tls": kafka.tls.model_copy(update=found)})
    if kafka.sasl is not None and kafka.sasl.password_file is not None:
        file = (root / kafka.sasl.password_file).absolute()
        kafka = kafka.model_copy(update={"sasl": kafka.sasl.model_copy(update={"password_file": file})})
    return log.model_copy(update={"kafka": kafka})
