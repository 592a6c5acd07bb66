"""What can be said of a job besides its statement: the keys of a SQL file's header, which are the options of `@job`.

One model for both, without unknown keys. What it accepts becomes a `jobs.model.Job`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from eagleray.cluster.quantities import parse_size
from eagleray.cluster.sections import SQL_NAMES, JobsConfig
from eagleray.jobs.model import Check, Condition, EngineName, Job, Limits, Mode, Schedule, Source
from eagleray.jobs.project.calendars import calendar_of, check_ticks
from eagleray.jobs.project.declared_checks import Duration, Texts, listed
from eagleray.jobs.project.inputs import TABLE

RETRIES_MAX = 100
_DEFAULT = Limits()
_A_DAY = datetime(2024, 1, 1, tzinfo=UTC)


_NAMED = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip


def cron(text: str) -> str:
    """`text`, if it is a cron expression, or that of a name such as `@daily`; raises ValueError."""
    if text.startswith("@"):
        if text not in _NAMED:
            raise ValueError(f"unknown schedule {text!r}; expected {', '.join(_NAMED)}, or five fields of cron")
        return _NAMED[text]
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


_SWITCHES = {"yes": True, "on": True, "no": False, "off": False}


def _switch(value: object) -> object:
    return _SWITCHES.get(value.lower(), value) if isinstance(value, str) else value


Switch = Annotated[bool, BeforeValidator(_switch), Field(strict=True)]


def _not_of_sql(output: str) -> str:
    if (namespace := output.partition(".")[0]) in SQL_NAMES:
        raise ValueError(f"SQL has a schema or catalog called {namespace}; expected another namespace")
    return output


class Wait(BaseModel):
    """An entry of `wait_for`: one of table, file and url."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: Annotated[str, Field(pattern=TABLE)] | None = None
    file: Annotated[str, Field(min_length=1)] | None = None
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    every: Duration | None = None

    @model_validator(mode="after")
    def _one(self) -> Wait:
        if sum(one is not None for one in (self.table, self.file, self.url)) != 1:
            raise ValueError("expected one of table, file and url")
        return self

    def condition(self) -> Condition:
        """The same as a value."""
        kind, what = next((kind, what) for kind in _KINDS if (what := getattr(self, kind)) is not None)
        return Condition(kind, what, self.every or (60_000_000 if kind == "url" else 5_000_000))


_KINDS: tuple[Literal["table", "file", "url"], ...] = ("table", "file", "url")


def _several(value: object) -> object:
    return [value] if isinstance(value, dict) else value


class Header(BaseModel):
    """The keys of a header. Lists of one may be written without brackets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Annotated[str, Field(pattern=TABLE), AfterValidator(_not_of_sql)]  # namespace.table
    mode: Mode = "full"
    engine: EngineName = "duckdb"
    key: Texts | None = None
    columns: dict[str, str] | None = None  # of a function's result: name → SQL type
    vars: dict[str, Any] | None = None  # name → value, over those of the configuration
    include: Texts | None = None  # files of macros, beside the job's file or below the jobs' folder
    partition_by: Texts | None = None
    sort_by: Texts | None = None
    schedule: Annotated[str, AfterValidator(cron)] | None = None
    timezone: Annotated[str, AfterValidator(zone)] | None = None
    catch_up: Switch = False
    overlap: Switch = False
    calendar: str | None = None
    wait_for: Annotated[tuple[Wait, ...], BeforeValidator(_several)] = ()
    sla: Duration | None = None
    notify: Annotated[tuple[str, ...], BeforeValidator(listed)] | None = None
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
        if self.mode == "history" and not self.key:
            raise ValueError("mode history needs key: the columns that identify a thing")
        if self.key and self.mode not in ("merge", "incremental", "history"):
            raise ValueError(f"key goes with mode merge, history or incremental, found mode {self.mode}")
        if self.mode == "overwrite_partitions" and not self.partition_by:
            raise ValueError("mode overwrite_partitions needs partition_by: what a partition is")
        if self.schedule is None:
            for name in ("timezone", "catch_up", "overlap", "calendar", "wait_for", "sla"):
                if getattr(self, name):
                    raise ValueError(f"{name} goes with schedule (jobs.timezone sets the zone of all logical dates)")
        return self

    def job(
        self,
        name: str,
        source: Source,
        inputs: tuple[str, ...],
        checks: tuple[Check, ...],
        defaults: JobsConfig,
        variables: tuple[tuple[str, str], ...] = (),
    ) -> Job:
        """The job of this header; `defaults` says what holds where the header is silent.

        Raises ValueError for a calendar that is not there or cannot be read.
        """
        schedule = None
        if self.schedule:
            timezone = self.timezone or defaults.timezone
            calendar = calendar_of(self.calendar, defaults) if self.calendar else None
            if calendar is not None:
                check_ticks(self.schedule, timezone, calendar)
            waits = tuple(one.condition() for one in self.wait_for)
            schedule = Schedule(self.schedule, timezone, self.catch_up, self.overlap, calendar, waits, self.sla)
        return Job(
            name=name,
            output=self.output,
            mode=self.mode,
            source=source,
            inputs=inputs,
            engine=self.engine,
            key=self.key or (),
            columns=tuple((self.columns or {}).items()),
            variables=variables,
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
            notify=self.notify,
        )
