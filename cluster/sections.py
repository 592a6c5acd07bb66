"""The sections of the configuration, each a frozen model: keys, types, defaults and bounds, and what must go together.

`config` puts them together and reads the file. Unknown keys and values out of range raise pydantic's ValidationError
there, which names the key.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

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
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
RECORD_SLACK_BYTES = 256 << 10  # of an event's record beyond its JSON: schema, positions, columns that are null


class Section(BaseModel):
    """A part of the configuration: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def first_line(file: Path) -> str:
    """What a file of a secret holds: nothing but a newline ends it, whatever signs a password has.

    Raises OSError, UnicodeDecodeError.
    """
    return file.read_bytes().decode("utf-8-sig").partition("\n")[0].removesuffix("\r")


def read_secret(key: str, file: Path | None, env: str | None, whose: str, environ: Mapping[str, str] | None) -> str:
    """A secret as it is now: the first line of a file, or an environment variable; raises ConfigError at `key`.

    Never cached: it may be changed while we run.
    """
    if env is not None:
        found = (os.environ if environ is None else environ).get(env, "")
        place = f"the environment variable {env}"
    else:
        assert file is not None
        place = str(file)
        try:
            found = first_line(file)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{key}_file", f"{place} cannot be read: {error}") from None
    if not found:
        raise ConfigError(key, f"{place} is empty; expected {whose}")
    return found


def _text(value: object) -> object:
    return str(value) if isinstance(value, float) else value  # YAML reads a bare 1.2 as a number


class TlsConfig(Section):
    """TLS at the edge. Files are PEM, and are read again when they change."""

    cert: Path  # the certificate, and the chain behind it
    key: Path  # its private key, unencrypted
    client_ca: Path | None = None  # who signs client certificates; their subject is the name of an API key
    client_auth: Literal["optional", "required"] = "optional"  # required: no connection without a certificate
    min_version: Annotated[Literal["1.2", "1.3"], BeforeValidator(_text)] = "1.2"


Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519"]
"""Signatures that a token may have: all by a private key that the issuer alone has."""


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class JwtConfig(Section):
    """Tokens of an identity provider, beside API keys."""

    issuer: str = Field(min_length=1)  # `iss`, exactly
    audiences: Annotated[tuple[str, ...], BeforeValidator(_one_or_more), Field(min_length=1)] = Field(alias="audience")
    jwks: str = Field(min_length=1)  # the issuer's public keys: an https URL, or a file
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256"), min_length=1)
    scopes_claim: str = "scope"  # text with blanks between, or a list
    clock_slack: DurationUs = 30_000_000  # how far the issuer's clock may be from ours

    @model_validator(mode="after")
    def _no_forged_keys(self) -> JwtConfig:
        scheme, separator, rest = self.jwks.partition("://")
        host = rest.partition("/")[0].rpartition("@")[2]
        loopback = host.partition(":")[0] in ("127.0.0.1", "localhost") or host.startswith("[::1]")
        if separator and scheme != "https" and not (scheme == "http" and loopback):
            raise ValueError("jwks: expected https://… or a file; keys that come unprotected can be forged on the way")
        return self


def _network(value: str) -> str:
    ipaddress.ip_network(value, strict=False)
    return value


class EdgeConfig(Section):
    """The HTTP edge. `auth: off` is allowed on a loopback host only."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)  # 0: any free port
    processes: int = Field(default=1, ge=1, le=64)  # edge actors per node, sharing the port by SO_REUSEPORT
    auth: Literal["required", "off"] = "required"
    tls: TlsConfig | None = None
    jwt: JwtConfig | None = None
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = ()  # addresses and CIDR blocks
    body_bytes_max: int = Field(default=8 * MIB, gt=0)  # as received, compressed
    inflated_bytes_max: int = Field(default=64 * MIB, gt=0)
    event_bytes_max: int = Field(default=1 * MIB, gt=0)
    events_max: int = Field(default=100_000, gt=0)  # events of one request
    items_max: int = Field(default=10_000, gt=0)  # items of all arrays of one event
    depth_max: int = Field(default=64, ge=1, le=512)  # nesting of one event
    in_flight_bytes_max: int = Field(default=64 * MIB, gt=0)  # inflated bodies between edge and ack; full: 429
    in_flight_key_bytes_max: int = Field(default=32 * MIB, gt=0)  # the same of one API key
    dead_letters_rate: float = Field(default=1000.0, gt=0)  # rejected events a second of one API key; above: 429
    answer_bytes_max: int = Field(default=64 * MIB, gt=0)  # answers that wait to be read, held in memory; full: 429
    batch_delay_ms: float = Field(default=2.0, ge=0, le=1000)
    batch_bytes_max: int = Field(default=1 * MIB, gt=0)
    header_timeout_s: float = Field(default=10.0, gt=0)
    body_timeout_s: float = Field(default=30.0, gt=0)  # older = slower senders tolerated
    ack_timeout_s: float = Field(default=10.0, gt=0)  # a log slower than this: 503
    query_timeout_s: float = Field(default=30.0, gt=0)
    answer_timeout_s: float = Field(default=30.0, gt=0)  # older = slower readers tolerated
    drain_timeout_s: float = Field(default=10.0, gt=0)
    ready_lag_s: float = Field(default=60.0, gt=0)  # tables that stand still for so long with events waiting: not ready

    def url(self, port: int, node: str = "") -> str:
        """Where clients find the edge that listens on `port`: those of this machine, or of `node`."""
        anywhere = {"0.0.0.0": node or "127.0.0.1", "::": node or "::1"}
        host = anywhere.get(self.host, self.host)
        return f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    @model_validator(mode="before")
    @classmethod
    def _yaml_off(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("auth") is False:  # YAML 1.1 reads a bare `off` as false
            return {**data, "auth": "off"}
        return data

    @model_validator(mode="after")
    def _no_open_door(self) -> EdgeConfig:
        if self.auth == "off" and self.host not in LOOPBACK:
            raise ValueError(f"auth: off needs a loopback host (127.0.0.1, localhost or ::1), not {self.host!r}")
        if self.auth == "off" and self.jwt is not None:
            raise ValueError("auth: off asks nobody who they are; remove jwt, or auth: off")
        return self


class PostgresConfig(Section):
    """SQL over the wire protocol of Postgres. Keys, scopes and certificate are the edge's."""

    host: str = "127.0.0.1"
    port: int = Field(default=5432, ge=0, le=65535)  # 0: any free port
    connections_max: int = Field(default=100, ge=1, le=1000)  # logged in or about to; above: refused
    queries_max: int = Field(default=4, ge=1, le=64)  # at once, open cursors too; each has lake.query_memory_max
    idle_timeout_s: float = Field(default=3600.0, gt=0)  # a connection that asks nothing
    cursor_timeout_s: float = Field(default=60.0, gt=0)  # the same while it holds a query: an open cursor


class SqlConfig(Section):
    """Other ways to SQL than `POST /v1/sql`."""

    postgres: PostgresConfig | None = None


class KafkaTlsConfig(Section):
    """TLS to the brokers. Files are PEM, and are read again with each new connection."""

    ca: Path | None = None  # who signs the brokers' certificates; default: those whom this machine trusts
    cert: Path | None = None  # ours, where brokers ask for one
    key: Path | None = None  # its private key, unencrypted

    @model_validator(mode="after")
    def _pair(self) -> KafkaTlsConfig:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together")
        return self


class KafkaSaslConfig(Section):
    """Who we are to the brokers. The password stands in a file or in the environment, never here."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str = Field(min_length=1)
    password_file: Path | None = None  # its first line; read again with each new connection
    password_env: str | None = None  # the name of an environment variable

    @model_validator(mode="after")
    def _one_place(self) -> KafkaSaslConfig:
        if (self.password_file is None) == (self.password_env is None):
            raise ValueError("expected one of password_file and password_env")
        return self

    def password(self, environ: Mapping[str, str] | None = None) -> str:
        """The password as it is now; raises ConfigError where there is none."""
        whose = f"the password of {self.username}"
        return read_secret("log.kafka.sasl.password", self.password_file, self.password_env, whose, environ)


class KafkaConfig(Section):
    """How the log uses Kafka. What concerns topics holds for those that are made from then on."""

    topic_prefix: str = Field(default="eagleray", pattern=r"^[A-Za-z0-9_-]{1,64}$")  # one for each project
    replication: int = Field(default=3, ge=1, le=15)  # copies of each record, on as many brokers
    min_insync_replicas: int = Field(default=2, ge=1, le=15)  # copies that an ack waits for at least
    record_bytes_max: int = Field(default=4 * MIB, ge=MIB, le=512 * MIB)  # a topic's max.message.bytes
    topic_retention_hours: float | None = Field(default=None, gt=0)  # Kafka's own, stored in the tables or not
    compression: Literal["zstd", "lz4", "none"] = "zstd"
    tls: KafkaTlsConfig | None = None
    sasl: KafkaSaslConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> KafkaConfig:
        if self.min_insync_replicas > self.replication:
            raise ValueError(f"min_insync_replicas is above replication ({self.replication}): no append would succeed")
        return self


def _broker(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not (separator and host and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"expected HOST:PORT, found {value!r}")
    return value


class LogConfig(Section):
    """The event log. `partitions` is fixed when the data directory is first used."""

    backend: Literal["embedded", "memory", "kafka"] = "embedded"
    partitions: int = Field(default=4, ge=1, le=1024)
    retention_hours: float = Field(default=24.0, gt=0)
    append_timeout_s: float = Field(default=5.0, gt=0)
    brokers: tuple[Annotated[str, AfterValidator(_broker)], ...] = ()  # of Kafka; some of them suffice
    kafka: KafkaConfig = KafkaConfig()

    @model_validator(mode="after")
    def _used(self) -> LogConfig:
        if self.backend == "kafka" and not self.brokers:
            raise ValueError("backend: kafka needs brokers: [HOST:PORT, ...]")
        if self.kafka != KafkaConfig() and not self.brokers:
            raise ValueError("kafka is for a log in Kafka, and brokers names none")
        kept = self.kafka.topic_retention_hours
        if kept is not None and kept < self.retention_hours:
            raise ValueError("kafka.topic_retention_hours is shorter than retention_hours")
        if self.kafka.sasl is not None and self.kafka.sasl.mechanism == "PLAIN" and self.kafka.tls is None:
            if any(broker.rpartition(":")[0] not in LOOPBACK for broker in self.brokers):
                raise ValueError("kafka.sasl: PLAIN sends the password as it is; it needs kafka.tls, or SCRAM")
        return self


class CatalogConfig(Section):
    """The Iceberg catalog: anything that pyiceberg's `load_catalog` takes; `sql` by default."""

    model_config = ConfigDict(frozen=True, extra="allow")
    type: str = "sql"
    uri: str | None = None  # default: sqlite in data_dir/catalog.db


class S3Config(Section):
    """How an `s3://` warehouse is reached. Keys come by boto3's usual chain, never from this file."""

    endpoint: str | None = None  # of a server other than AWS: http(s)://HOST:PORT
    region: str | None = None  # default: AWS_REGION, or of the profile
    path_style: bool = True  # HOST/bucket/key; false: bucket.HOST/key
    profile: str | None = None  # of the credentials file; default: AWS_PROFILE
    credentials_file: str | None = None  # default: AWS_SHARED_CREDENTIALS_FILE, or ~/.aws/credentials
    encryption: Literal["none", "AES256", "aws:kms"] = "none"  # asked for with each write; none: as the bucket says
    kms_key: str | None = None  # for aws:kms; default: the account's
    connect_timeout_s: float = Field(default=5.0, gt=0)
    read_timeout_s: float = Field(default=10.0, gt=0)  # without a byte
    attempts_max: int = Field(default=6, ge=1, le=20)  # of a request; pauses between them double, with jitter
    part_bytes: int = Field(default=8 * MIB, ge=5 * MIB)  # larger files go up in parts of this size

    @model_validator(mode="after")
    def _key_of_kms(self) -> S3Config:
        if self.kms_key and self.encryption != "aws:kms":
            raise ValueError("kms_key needs encryption: aws:kms")
        return self


class LakeConfig(Section):
    """Where tables live and how often they are committed."""

    warehouse: str | None = None  # default: data_dir/lake
    s3: S3Config = S3Config()
    cache_bytes_max: int = Field(default=4096 * MIB, gt=0)  # of files of an s3:// warehouse, kept in data_dir/cache
    catalog: CatalogConfig = CatalogConfig()
    commit_interval_s: float = Field(default=2.0, gt=0)  # older = fewer small files
    file_bytes_max: int = Field(default=128 * MIB, gt=0)
    replaced_files_kept: DurationUs = 3_600_000_000  # for readers that began before compaction or a job replaced them
    snapshots_kept: int = Field(default=100, ge=2, le=500)  # pyiceberg copies this list on each commit
    query_memory_max: int = Field(default=1024 * MIB, gt=0)
    query_spill_max: int = Field(default=4096 * MIB, ge=0)  # of one query's temporary files

    @model_validator(mode="after")
    def _used(self) -> LakeConfig:
        if self.s3 != S3Config() and not (self.warehouse or "").startswith("s3://"):
            raise ValueError(f"s3 is for a warehouse that begins with s3://, and lake.warehouse is {self.warehouse!r}")
        return self


class StateConfig(Section):
    """Where saved ids, window snapshots, the seed of hashes and API keys are."""

    backend: Literal["embedded", "shared"] = "embedded"  # files in data_dir; or Postgres and the s3:// warehouse
    database: str | None = None  # postgresql://… for shared; default: lake.catalog.uri


class TimetableEntry(Section):
    """A built-in job, or a run of late dates, at times of the clock."""

    run: str  # what would stand after `eagleray job run`
    schedule: str  # five cron fields
    timezone: str | None = None  # default: jobs.timezone


class StreamRetention(Section):
    """How long rows of a stream's tables are kept; without a time, for ever."""

    events: PositiveUs | None = None  # since they were ingested, as for dead letters and late events
    dead_letters: PositiveUs | None = None
    late: PositiveUs | None = None
    windows: PositiveUs | None = None  # since a window's end; of all windows


class JobsRetention(Section):
    """How long the traces of job runs are kept; without a time, for ever."""

    history: PositiveUs | None = None  # runs and attempts; the last success of each period and the last run stay
    samples: PositiveUs | None = None  # rows that broke a check, and messages of failures: they may hold data
    logs: PositiveUs | None = None  # what jobs printed


class WebhookConfig(Section):
    """An address that takes messages by POST. The address, or a token, may be a secret: by file or environment."""

    url: str | None = None
    url_file: Path | None = None  # its first line
    url_env: str | None = None
    token_file: Path | None = None  # sent as `Authorization: Bearer`
    token_env: str | None = None
    ca: Path | None = None  # who signs the server's certificate (PEM); default: those whom this machine trusts

    @model_validator(mode="after")
    def _one_place(self) -> WebhookConfig:
        if sum(one is not None for one in (self.url, self.url_file, self.url_env)) != 1:
            raise ValueError("expected one of url, url_file and url_env")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError("expected a url that begins with http:// or https://")
        if self.token_file is not None and self.token_env is not None:
            raise ValueError("expected one of token_file and token_env")
        return self

    def address(self, key: str, environ: Mapping[str, str] | None = None) -> str:
        """The address as it is now; raises ConfigError at `key`."""
        return self.url or read_secret(f"{key}.url", self.url_file, self.url_env, "an address", environ)

    def token(self, key: str, environ: Mapping[str, str] | None = None) -> str | None:
        """The token as it is now, None where there is none; raises ConfigError at `key`."""
        if self.token_file is None and self.token_env is None:
            return None
        return read_secret(f"{key}.token", self.token_file, self.token_env, "a token", environ)


class EmailConfig(Section):
    """Mail by a server of SMTP."""

    host: str = Field(min_length=1)
    port: int = Field(default=587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"  # none: only without a password, or to loopback
    sender: str = Field(min_length=3)
    to: tuple[str, ...] = Field(min_length=1)
    username: str | None = None
    password_file: Path | None = None  # its first line
    password_env: str | None = None
    ca: Path | None = None  # who signs the server's certificate (PEM); default: those whom this machine trusts

    @model_validator(mode="after")
    def _login(self) -> EmailConfig:
        places = sum(one is not None for one in (self.password_file, self.password_env))
        if places != (0 if self.username is None else 1):
            raise ValueError("username goes with one of password_file and password_env")
        if self.username is not None and self.security == "none" and self.host not in LOOPBACK:
            raise ValueError("a password is not sent without TLS; expected security: starttls or tls")
        return self

    def password(self, key: str, environ: Mapping[str, str] | None = None) -> str | None:
        """The password as it is now, None where there is no login; raises ConfigError at `key`."""
        if self.username is None:
            return None
        whose = f"the password of {self.username}"
        return read_secret(f"{key}.password", self.password_file, self.password_env, whose, environ)


JobEvent = Literal["failed", "late", "recovered", "succeeded"]
"""What is told of a job. failed: it was given up · late: not done within its `sla` · recovered: the first success
after a failure · succeeded: any success."""


class NotifyConfig(Section):
    """Who is told of jobs, and of what: one of `webhook`, `slack` and `email`."""

    name: Name
    webhook: WebhookConfig | None = None
    slack: WebhookConfig | None = None  # takes `{"text": …}`: Slack, Mattermost, Discord's /slack, Rocket.Chat
    email: EmailConfig | None = None
    on: tuple[JobEvent, ...] = ("failed", "late", "recovered")
    jobs: tuple[str, ...] = ("*",)  # names, `*` for any part; a job's own `notify` goes before

    @model_validator(mode="after")
    def _one_way(self) -> NotifyConfig:
        if sum(one is not None for one in (self.webhook, self.slack, self.email)) != 1:
            raise ValueError("expected one of webhook, slack and email")
        return self


class LineageConfig(WebhookConfig):
    """Where OpenLineage events of runs go (extra `lineage`)."""

    endpoint: str = "api/v1/lineage"  # below the url
    namespace: str = "eagleray"  # of jobs and tables


Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class CalendarConfig(Section):
    """Days on which jobs run."""

    days: tuple[Weekday, ...] = Field(default=("mon", "tue", "wed", "thu", "fri"), min_length=1)
    holidays: Path | None = None  # a file of dates (2026-12-25), one a line; what follows is a remark


class JobsConfig(Section):
    """The batch plane: where jobs are declared, where their history is, what they may use."""

    folder: str = "jobs"  # beside the configuration file
    history: str | None = None  # SQLAlchemy URL; default: sqlite in data_dir/jobs.db
    concurrency: int | None = Field(default=None, ge=1)  # runs at once; default: the cluster's cores
    memory_max: int = Field(default=1024 * MIB, gt=0)  # of one run, unless the job says otherwise
    timezone: str = "UTC"  # of logical dates and schedules, unless the job says otherwise
    timetable: tuple[TimetableEntry, ...] = ()  # maintenance, and late dates
    retention: JobsRetention = JobsRetention()
    vars: Mapping[str, Any] = Field(default_factory=dict)  # `$name` in statements of jobs, unless a job says otherwise
    secrets: tuple[str, ...] = ()  # names of environment variables whose values no message, log or history shows
    notify: tuple[NotifyConfig, ...] = ()  # who is told of runs
    lineage: LineageConfig | None = None
    calendars: Mapping[Name, CalendarConfig] = Field(default_factory=dict)  # by the name that jobs say

    @field_validator("notify")
    @classmethod
    def _names(cls, listed: tuple[NotifyConfig, ...]) -> tuple[NotifyConfig, ...]:
        names = [one.name for one in listed]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two entries are called {twice.pop()}")
        return listed


class SloConfig(Section):
    """Objectives: what users shall see. `eagleray slo` compares, and alerts rest on them."""

    ack_p99: PositiveUs = 500_000  # 99 of 100 requests with events are acked within
    freshness_p99: PositiveUs = 10_000_000  # 99 of 100 events are in their table within, counted from the ack
    success: float = Field(default=0.999, gt=0, lt=1)  # share of requests with events that get no 5xx


class RayConfig(Section):
    """The Ray cluster that is joined with `--address`."""

    insecure: bool = False  # join also a cluster that asks for no token: whoever reaches it runs code


class PoolConfig(Section):
    """How many workers a pool may have."""

    min: int = Field(default=1, ge=1, le=1024)
    max: int = Field(default=2, ge=1, le=1024)
    cpus: float = Field(default=0.25, gt=0)  # asked of Ray for each worker, in a cluster
    memory: int = Field(default=256 * MIB, gt=0)  # bytes, likewise

    @model_validator(mode="after")
    def _ordered(self) -> PoolConfig:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class PoolsConfig(Section):
    """The three pools of workers, and how long any worker may stand still."""

    stalled_after_s: float = Field(default=20.0, gt=0)  # without an answer, or with work overdue: ended and replaced

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
    time_unit: Literal["s", "ms", "us", "ns", "auto"] | None = None  # of numbers, also as text; absent: RFC 3339 text
    time_zone: str | None = None  # of texts that name no zone; absent: they are rejected
    time_missing: Literal["reject", "arrival"] = "reject"  # arrival: the field gets the time at which the event came
    id: str | None = None
    key: str | None = None
    max_out_of_orderness: DurationUs = 10_000_000
    clock_slack: DurationUs = 1_000_000  # older = late sooner after an event from the future; see ADR 18
    allowed_lateness: DurationUs = 30_000_000
    idle_timeout: PositiveUs = 10_000_000
    max_future: DurationUs = 3_600_000_000
    dedup_horizon: PositiveUs = 3_600_000_000
    lake: StreamLakeConfig = StreamLakeConfig()
    filter: str | None = None
    windows: Mapping[Name, WindowConfig] = Field(default_factory=dict)
    retention: StreamRetention = StreamRetention()

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        try:
            return None if name is None else ZoneInfo(name).key
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"unknown time zone {name!r}; expected a name such as UTC or Europe/Berlin") from None

    @model_validator(mode="after")
    def _retained(self) -> StreamConfig:
        kept = self.retention.events
        spans = [w.tumble or w.hop or w.session_gap or 0 for w in self.windows.values()]
        counted = max(spans, default=0) + self.allowed_lateness + self.max_out_of_orderness
        for needed, what in ((self.dedup_horizon, "dedup_horizon"), (counted, "the longest window with its lateness")):
            if kept is not None and kept < needed:
                raise ValueError(f"retention.events is shorter than {what}, which events are needed for")
        return self

    @model_validator(mode="after")
    def _reserved(self) -> StreamConfig:
        taken = {"events", "late", "dead_letters", "forgotten"} & set(self.windows)
        if taken:
            raise ValueError(f"a window cannot be called {taken.pop()!r}: every stream has a table of that name")
        return self
