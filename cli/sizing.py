"""From a rate of events to cores, nodes, partitions, objects and a monthly cost. Pure; called by `eagleray size`.

Promise: nothing is estimated that was measured. Figures, shares and prices come from one file (`sizing.yaml`), which
users replace; the arithmetic is here, each line with its unit in its name.

Cores follow the peak, storage and traffic the average. An event's cost grows with its bytes; a request costs something
however small it is. What is written in S3 and Kafka is dearer by the measured ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.sections import Section

DAY_S = 86_400
MONTH_DAYS = 30.4
GB = 1e9
DEFAULTS = Path(__file__).with_name("sizing.yaml")


class Measured(Section):
    """Figures of benchmarks: microseconds of one core for an event of `event_bytes`, ratios, bytes."""

    event_bytes: float = Field(gt=0)
    edge_us: float = Field(ge=0)
    validate_us: float = Field(ge=0)
    writer_us: float = Field(ge=0)
    window_us: float = Field(ge=0)
    rest_us: float = Field(ge=0)
    request_us: float = Field(ge=0)
    kafka_rate: float = Field(gt=0)
    s3_write_rate: float = Field(gt=0)
    log_share: float = Field(gt=0)
    lake_share: float = Field(gt=0)
    files_per_commit: float = Field(gt=0)
    memory_gib_per_core: float = Field(ge=0)
    ids_mib: float = Field(ge=0)
    job_core_s_per_million: float = Field(ge=0)
    job_s3_factor: float = Field(gt=0)


class Shares(Section):
    """What is left free, and least counts."""

    busy: float = Field(gt=0, le=1)
    usable: float = Field(gt=0, le=1)
    nodes_min: int = Field(ge=1)
    partitions_per_worker: int = Field(ge=1)
    batch_hours: float = Field(gt=0, le=24)
    broker_mb_per_s: float = Field(gt=0)
    file_mib: float = Field(gt=0)
    disk_free: float = Field(ge=0, lt=1)


class Machine(Section):
    """A kind of machine."""

    cpus: float = Field(gt=0)
    memory_gib: float = Field(gt=0)
    per_hour: float = Field(ge=0)


class Prices(Section):
    """US dollars."""

    hours_per_month: float = Field(gt=0)
    node: Machine
    head: Machine
    broker: Machine
    broker_disk_gb_month: float = Field(ge=0)
    object_gb_month: float = Field(ge=0)
    put_per_1000: float = Field(ge=0)
    get_per_1000: float = Field(ge=0)
    zone_gb: float = Field(ge=0)
    database_month: float = Field(ge=0)
    redis_month: float = Field(ge=0)
    kubernetes_month: float = Field(ge=0)
    balancer_month: float = Field(ge=0)
    balancer_gb: float = Field(ge=0)


class Table(Section):
    """The file."""

    measured: Measured
    shares: Shares
    prices: Prices


@dataclass(frozen=True)
class Load:
    """What is asked for. `events_per_s` is the average of a day; `peak` how many times that its busiest minutes are."""

    events_per_s: float
    event_bytes: float
    retention_days: float
    peak: float = 3.0
    events_per_request: float = 100.0
    log_hours: float = 24.0
    copies: int = 3
    streams: int = 1
    tables_per_stream: int = 4  # events, dead letters, late, and a window
    commit_interval_s: float = 10.0
    jobs: int = 0
    job_weight: float = 1.0  # times the benchmark's job


@dataclass(frozen=True)
class Line:
    """One line of the plan: what, how much of it, and what it costs a month."""

    what: str
    amount: str
    usd: float


@dataclass(frozen=True)
class Plan:
    """What a load needs."""

    edge_cores: float
    stream_cores: float
    batch_cores: float
    edge_nodes: int
    stream_nodes: int
    batch_node_hours: float  # of a month
    memory_gib: float  # of edge and stream workers at the peak
    partitions: int  # of each stream
    brokers: int
    log_gb: float  # on all brokers
    lake_gb: float
    objects: int
    puts_per_month: float
    lines: tuple[Line, ...]

    @property
    def usd(self) -> float:
        """Of a month."""
        return sum(line.usd for line in self.lines)


def read_table(file: Path = DEFAULTS) -> Table:
    """Figures, shares and prices of `file`; raises ConfigError, which names the key."""
    try:
        return Table.model_validate(yaml.safe_load(file.read_text()))
    except OSError as error:
        raise ConfigError(str(file), f"not readable: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(str(file), f"not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{file}: {'.'.join(map(str, first['loc']))}", first["msg"]) from None


def plan(load: Load, table: Table) -> Plan:
    """What `load` needs, by `table`."""
    measured, shares, prices = table.measured, table.shares, table.prices
    # 1. cores, at the peak
    peak_per_s = load.events_per_s * load.peak
    heavier = load.event_bytes / measured.event_bytes
    edge_us = (measured.edge_us + measured.validate_us) * heavier + measured.request_us / load.events_per_request
    stream_us = measured.writer_us * heavier / measured.s3_write_rate + measured.window_us * heavier + measured.rest_us
    edge_cores, stream_cores = (peak_per_s * us / 1e6 / measured.kafka_rate for us in (edge_us, stream_us))
    # 2. nodes: as many as cores that are not too busy, or their memory, ask for
    partitions = _partitions(stream_cores / shares.busy, table)
    ids_gib = 2 * partitions * load.streams * measured.ids_mib / 1024
    edge_gib, stream_gib = (cores * measured.memory_gib_per_core for cores in (edge_cores, stream_cores))
    edge_nodes = _nodes(edge_cores, edge_gib, table)
    stream_nodes = _nodes(stream_cores, stream_gib + ids_gib, table)
    # 3. jobs of a day
    millions_a_day = load.events_per_s * DAY_S / 1e6
    job_core_s = load.jobs * millions_a_day * measured.job_core_s_per_million * measured.job_s3_factor * load.job_weight
    batch_cores = job_core_s / (shares.batch_hours * 3600)
    batch_node_hours = job_core_s / 3600 / (prices.node.cpus * shares.usable) * MONTH_DAYS
    # 4. the log
    bytes_per_s = load.events_per_s * load.event_bytes
    log_bytes = bytes_per_s * measured.log_share * load.log_hours * 3600 * load.copies
    written_mb_per_s = bytes_per_s * load.peak * measured.log_share * load.copies / 1e6
    brokers = max(load.copies, math.ceil(written_mb_per_s / shares.broker_mb_per_s))
    # 5. the lake
    lake_bytes = bytes_per_s * DAY_S * load.retention_days * measured.lake_share
    commits = load.streams * load.tables_per_stream * MONTH_DAYS * DAY_S / load.commit_interval_s
    puts = commits * (measured.files_per_commit + 3)  # and a manifest, a list of manifests, the table's metadata
    fresh = puts / MONTH_DAYS  # of the last day, which compaction has not seen
    objects = math.ceil(lake_bytes / (shares.file_mib * 2**20) + fresh)
    found = Plan(
        edge_cores, stream_cores, batch_cores, edge_nodes, stream_nodes, batch_node_hours,
        edge_gib + stream_gib + ids_gib, partitions, brokers, log_bytes / GB, lake_bytes / GB, objects, puts, (),
    )  # fmt: skip
    return _priced(found, load, table)


def _partitions(busy_cores: float, table: Table) -> int:
    """Of each stream: a worker has about one core, and several partitions each, so that a pool can grow."""
    return max(4, math.ceil(busy_cores) * table.shares.partitions_per_worker)


def _nodes(cores: float, memory_gib: float, table: Table) -> int:
    node, shares = table.prices.node, table.shares
    for_cores = math.ceil(cores / shares.busy / (node.cpus * shares.usable))
    for_memory = math.ceil(memory_gib / (node.memory_gib * shares.usable))
    return max(shares.nodes_min, for_cores, for_memory)


def _priced(found: Plan, load: Load, table: Table) -> Plan:
    prices, measured = table.prices, table.measured
    hours = prices.hours_per_month
    disk_gb = found.log_gb / (1 - table.shares.disk_free)
    json_gb = load.events_per_s * load.event_bytes * DAY_S * MONTH_DAYS / GB
    log_gb = json_gb * measured.log_share
    # An event crosses zones as JSON to an edge and as a record to its leader (two times in three each), to each copy,
    # and to the two pools that read it (two times in three).
    crossing_gb = 2 / 3 * json_gb + log_gb * (2 / 3 + (load.copies - 1) + 2 * 2 / 3)
    lines = (
        Line("edge nodes", f"{found.edge_nodes}", found.edge_nodes * prices.node.per_hour * hours),
        Line("stream nodes", f"{found.stream_nodes}", found.stream_nodes * prices.node.per_hour * hours),
        Line("batch nodes", f"{found.batch_node_hours:,.0f} node hours", found.batch_node_hours * prices.node.per_hour),
        Line("Ray head", "1", prices.head.per_hour * hours),
        Line("Kafka brokers", f"{found.brokers}", found.brokers * prices.broker.per_hour * hours),
        Line("Kafka disks", f"{disk_gb:,.0f} GB", disk_gb * prices.broker_disk_gb_month),
        Line("lake", f"{found.lake_gb:,.0f} GB", found.lake_gb * prices.object_gb_month),
        Line(
            "requests to S3",
            f"{found.puts_per_month / 1e6:,.1f} million writes",
            # each written file is read about twice: by compaction, and by queries of the day
            found.puts_per_month / 1000 * (prices.put_per_1000 + 2 * prices.get_per_1000),
        ),
        Line("between zones", f"{crossing_gb:,.0f} GB", crossing_gb * prices.zone_gb),
        Line("load balancer", f"{json_gb:,.0f} GB", prices.balancer_month + json_gb * prices.balancer_gb),
        Line("Postgres, Redis", "2", prices.database_month + prices.redis_month),
        Line("Kubernetes", "1", prices.kubernetes_month),
    )
    return Plan(**{**vars(found), "lines": lines})
