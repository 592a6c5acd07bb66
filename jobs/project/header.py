"""What can be said of a job besides its statement: the keys of a SQL file's header, which are the options of `@job`.

One model for both, without unknown keys. What it accepts becomes a `jobs.model.Job`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from eagleray.cluster.config import JobsConfig
from eagleray.cluster.quantities import parse_size
from eagleray.jobs.model import Check, EngineName, Job, Limits, Mode, Schedule, Source
from eagleray.jobs.project.declared_checks import Duration, Texts
from eagleray.jobs.project.inputs import TABLE

RETRIES_MAX = 100
_DEFAULT = Limits()
_A_DAY = datetime(2024, 1, 1, tzinfo=UTC)


def cron(text: str) -> str:
    """`text`, if it is a cron expression; raises ValueError."""
    if len(text.split()) != 5:
        raise ValueError(f"expected five fields (minute hour day month weekday), such as 0 2 * * *, found {text!r}")
    try:
        CronSim(text, _A_DAY)
    except CronSimError as error:
        raise ValueError(f"{text!r} is no cron expression ({error}); expected one such as 0 2 * * *") from None
    return text


def zone(text: str) -> str:
    """`text`, if it is the name of a time zone; raises ValueError."""
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {text!r}; expected a name such as UTC or Europe/Berlin") from None
    return text


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


class Header(BaseModel):
    """The keys of a header. Lists of one may be written without brackets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Annotated[str, Field(pattern=TABLE)]  # namespace.table
    mode: Mode = "full"
    engine: EngineName = "duckdb"
    key: Texts | None = None
    partition_by: Texts | None = None
    sort_by: Texts | None = None
    schedule: Annotated[str, AfterValidator(cron)] | None = None
    timezone: Annotated[str, AfterValidator(zone)] | None = None
    catch_up: bool = Field(default=False, strict=True)
    overlap: bool = Field(default=False, strict=True)
    checks: tuple[Any, ...] = ()  # each by `jobs.project.declared_checks`
    retries: int = Field(default=_DEFAULT.retries, ge=0, le=RETRIES_MAX, strict=True)
    backoff: Duration = _DEFAULT.backoff_us
    timeout: Duration = _DEFAULT.timeout_us
    memory: Annotated[int, BeforeValidator(_size), Field(gt=0, strict=True)] | None = None
    cpus: Annotated[float, Field(gt=0, strict=True)] = _DEFAULT.cpus
    description: Annotated[str, Field(strict=True)] = ""

    @model_validator(mode="after")
    def _together(self) -> Header:
        if self.mode == "merge" and not self.key:
            raise ValueError("mode merge needs key: the columns that identify a row")
        if self.key and self.mode not in ("merge", "incremental"):
            raise ValueError(f"key goes with mode merge or incremental, found mode {self.mode}")
        if self.mode == "overwrite_partitions" and not self.partition_by:
            raise ValueError("mode overwrite_partitions needs partition_by: what a partition is")
        if self.schedule is None:
            for name in ("timezone", "catch_up", "overlap"):
                if getattr(self, name):
                    raise ValueError(f"{name} goes with schedule (jobs.timezone sets the zone of all logical dates)")
        return self

    def job(
        self, name: str, source: Source, inputs: tuple[str, ...], checks: tuple[Check, ...], defaults: JobsConfig
    ) -> Job:
        """The job of this header; `defaults` says what holds where the header is silent."""
        schedule = None
        if self.schedule:
            schedule = Schedule(self.schedule, self.timezone or defaults.timezone, self.catch_up, self.overlap)
        return Job(
            name=name,
            output=self.output,
            mode=self.mode,
            source=source,
            inputs=inputs,
            engine=self.engine,
            key=self.key or (),
            partition_by=self.partition_by or (),
            sort_by=self.sort_by or (),
            schedule=schedule,
            checks=checks,
            limits=Limits(
                memory_bytes=self.memory or defaults.memory_max,
                timeout_us=self.timeout,
                retries=self.retries,
                backoff_us=self.backoff,
                cpus=self.cpus,
            ),
            description=self.description,
        )
