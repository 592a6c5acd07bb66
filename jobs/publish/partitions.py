"""Which partitions are a period's own: those that lie wholly within it. Pure functions on partition values.

A run that finds nothing replaces them with nothing. What only touches the period is replaced where the result has rows
in it, and not otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from eagleray.cluster.lake.file_schema import narrow
from eagleray.cluster.lake.scan import Pinned
from eagleray.cluster.lake.table_layout import PartitionField, parse_layout
from eagleray.cluster.windowing.definition import field_type
from eagleray.jobs.alignment import whole
from eagleray.jobs.period import Period

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_INSTANT = timedelta(microseconds=1)
_MIXED = ("bucket", "truncate")  # they say nothing about time


@dataclass(frozen=True)
class Owner:
    """A period as the owner of partitions of `fields`, whose columns have `types`."""

    fields: Sequence[PartitionField]
    types: Mapping[str, pa.DataType]
    period: Period

    def reaching_beyond(self) -> str | None:
        """A field whose partitions hold rows of other periods as well; None where every partition is the period's.

        Of several fields of one column (`[month(day), day]`) one that cuts within periods is enough.
        """
        found: dict[str, PartitionField] = {}
        within = set()
        for field in self.fields:
            kind = self.types[field.name]
            if (pt.is_timestamp(kind) or pt.is_date(kind)) and field.transform not in _MIXED:
                if whole(self.period, field.transform, pt.is_date(kind)):
                    within.add(field.path.column)
                else:
                    found.setdefault(field.path.column, field)
        for column, field in found.items():
            if column not in within:
                return f"{field.transform}({column})" if field.transform != "identity" else column
        return None

    @classmethod
    def of(cls, pinned: Pinned, partition_by: tuple[str, ...], period: Period) -> Owner:
        """Over a table that is partitioned so; raises ConfigError where its columns do not allow that."""
        columns = pa.schema([narrow(column.field) for column in pinned.columns])
        fields = {field.name: field for field in parse_layout(pinned.name, columns, partition_by, ()).partition_by}
        types = {name: field_type(columns, field.path) for name, field in fields.items()}
        return cls([fields[name] for name in pinned.partitions], types, period)

    def owns(self, key: Sequence[Any]) -> bool:
        """Whether the partition with these values is the period's own: by every column that is a time, and by one."""
        found: dict[str, bool | None] = {}
        for field, value in zip(self.fields, key, strict=True):
            within, before = self._within(field, value), found.get(field.path.column)
            found[field.path.column] = within if before is None else before or bool(within)
        return True in found.values() and False not in found.values()

    def in_utc_alone(self, key: Sequence[Any]) -> date | None:
        """The date of a partition that is a day of the period by UTC, and none by the period's own zone."""
        last = self.period.day + timedelta(days=round((self.period.end - self.period.start) / _DAY) - 1)
        for field, value in zip(self.fields, key, strict=True):
            if value is None or not pt.is_date(self.types[field.name]) or field.transform not in ("identity", "day"):
                continue
            day = (_EPOCH + int(value) * _DAY).date()
            touched = self.period.start.date() <= day <= (self.period.end - _INSTANT).date()
            if touched and not self.period.day <= day <= last:
                return day
        return None

    def of_no_time(self, key: Sequence[Any]) -> str | None:
        """The column without which a partition is of no period at all: a time that is null."""
        for field, value in zip(self.fields, key, strict=True):
            kind = self.types[field.name]
            if value is None and (pt.is_timestamp(kind) or pt.is_date(kind)) and field.transform not in _MIXED:
                return field.path.column
        return None

    def _within(self, field: PartitionField, value: Any) -> bool | None:
        """None: the field says nothing about time."""
        kind = self.types[field.name]
        if field.transform == "identity" and pt.is_string(kind):
            return True if value == self.period.label else None
        if not (pt.is_timestamp(kind) or pt.is_date(kind)) or field.transform in _MIXED:
            return None
        if value is None:
            return False
        start, end = _stretch(field.transform, int(value), pt.is_date(kind))
        if not pt.is_date(kind):
            return self.period.start <= start and end <= self.period.end
        days = round((self.period.end - self.period.start) / _DAY)  # a day may have 23 or 25 hours
        return self.period.day <= start.date() and end.date() <= self.period.day + timedelta(days=days)


def _stretch(transform: str, value: int, dates: bool) -> tuple[datetime, datetime]:
    """The time that a partition value stands for, in Iceberg's plain numbers since 1970."""
    match transform:
        case "year":
            return _month(12 * value), _month(12 * value + 12)
        case "month":
            return _month(value), _month(value + 1)
        case "hour":
            return _EPOCH + value * _HOUR, _EPOCH + (value + 1) * _HOUR
        case "identity" if not dates:
            start = _EPOCH + timedelta(microseconds=value)
            return start, start + timedelta(microseconds=1)
    return _EPOCH + value * _DAY, _EPOCH + (value + 1) * _DAY


def _month(number: int) -> datetime:
    at = date(1970 + number // 12, number % 12 + 1, 1)
    return datetime(at.year, at.month, at.day, tzinfo=UTC)
