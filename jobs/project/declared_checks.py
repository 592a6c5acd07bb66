"""Reads the quality checks of a job from its header into `jobs.model.Check`. They are run by `jobs.publish.checks`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from eagleray.cluster.quantities import parse_duration
from eagleray.cluster.yaml_lines import Path, YamlMap
from eagleray.jobs.model import Check, CheckKind
from eagleray.jobs.project.inputs import TABLE, Inputs

TABLE_MARK = "{table}"
"""Stands for the output table in a `sql` check."""


def listed(value: object) -> object:
    """A list of one may be written without brackets."""
    return [value] if isinstance(value, str) else value


def _duration(value: object) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    raise ValueError(f"expected a duration such as 2d or 1h30m, found {value!r}")


@dataclass(frozen=True)
class Scalar:
    """A value, and how it is written: `1.10` is 1.1."""

    value: str | bool | int | float
    text: str


def _scalar(given: object) -> Scalar:
    """YAML reads days and times; SQL takes them as text, whatever the column is."""
    value, text = (given.value, given.text) if isinstance(given, Scalar) else (given, None)
    if isinstance(value, date):
        text = value.isoformat() if text is None else text
        return Scalar(text, text)
    if isinstance(value, str | bool | int | float):
        return Scalar(value, (str(value).lower() if isinstance(value, bool) else str(value)) if text is None else text)
    kept = "; null is accepted anyway" if value is None else ""
    raise ValueError(f"expected text, a number, a date, true or false, found {value!r}{kept}")


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(listed), Field(min_length=1)]
Duration = Annotated[int, BeforeValidator(_duration), Field(gt=0)]


class CheckOptions(BaseModel):
    """The options of a kind of check."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AcceptedValues(CheckOptions):
    """The column holds only these values; null is accepted."""

    column: Text
    values: tuple[Annotated[Scalar, BeforeValidator(_scalar)], ...] = Field(min_length=1)


class Relationships(CheckOptions):
    """Every value of the column is in `field` of the table `to`; null is accepted."""

    column: Text
    to: Annotated[str, Field(pattern=TABLE)]
    field: Text


class RowCount(CheckOptions):
    """The number of rows is within bounds."""

    min: int | None = Field(default=None, ge=0, strict=True)
    max: int | None = Field(default=None, ge=0, strict=True)

    @model_validator(mode="after")
    def _bounded(self) -> RowCount:
        if self.min is None and self.max is None:
            raise ValueError("expected min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class Freshness(CheckOptions):
    """The newest value of the column is at most `within` old."""

    column: Text
    within: Duration


_OPTIONS: Mapping[CheckKind, TypeAdapter[Any]] = {
    "not_null": TypeAdapter(Texts),
    "unique": TypeAdapter(Texts),
    "accepted_values": TypeAdapter(AcceptedValues),
    "relationships": TypeAdapter(Relationships),
    "row_count": TypeAdapter(RowCount),
    "freshness": TypeAdapter(Freshness),
    "sql": TypeAdapter(Text),
}


def as_written(header: YamlMap) -> dict[str, Any]:
    """The values of a header, those of `accepted_values` with how they are written."""
    checks = header.values.get("checks")
    if not isinstance(checks, list):
        return header.values
    kept = [_kept(one, ("checks", index), header) for index, one in enumerate(checks)]
    return {**header.values, "checks": kept}


def _kept(check: Any, path: Path, header: YamlMap) -> Any:
    options = check.get("accepted_values") if isinstance(check, dict) else None
    if not isinstance(options, dict) or not isinstance(options.get("values"), list):
        return check
    values = options["values"]
    texts = [header.texts.get((*path, "accepted_values", "values", index)) for index in range(len(values))]
    kept = [one if one is None or text is None else Scalar(one, text) for one, text in zip(values, texts, strict=True)]
    return {**check, "accepted_values": {**options, "values": kept}}


def parse_check(written: Any, output: str, inputs: Inputs) -> Check:
    """A check of the table `output`; raises ValueError (pydantic's own, too) that says what was expected."""
    if not isinstance(written, Mapping) or len(written) != 1:
        raise ValueError(f"expected one of {', '.join(get_args(CheckKind))} with its options, found {written!r}")
    kind, given = next(iter(written.items()))
    if kind not in _OPTIONS:
        raise ValueError(f"unknown check {kind!r}; expected {', '.join(_OPTIONS)}")
    return _MAKE[kind](kind, _OPTIONS[kind].validate_python(given), output, inputs)


def _columns(kind: CheckKind, columns: tuple[str, ...], *_: Any) -> Check:
    return Check(kind, {"columns": columns}, f"{kind}({', '.join(columns)})")


def _accepted(kind: CheckKind, options: AcceptedValues, *_: Any) -> Check:
    values, texts = (tuple(getattr(one, part) for one in options.values) for part in ("value", "text"))
    return Check(kind, {"column": options.column, "values": values, "texts": texts}, f"{kind}({options.column})")


def _relationships(kind: CheckKind, options: Relationships, *_: Any) -> Check:
    name = f"{kind}({options.column} → {options.to}.{options.field})"
    return Check(kind, options.model_dump(), name, tables=(options.to,))


def _row_count(kind: CheckKind, options: RowCount, *_: Any) -> Check:
    bounds = {key: value for key, value in options.model_dump().items() if value is not None}
    return Check(kind, bounds, f"{kind}({', '.join(f'{key} {value}' for key, value in bounds.items())})")


def _freshness(kind: CheckKind, options: Freshness, *_: Any) -> Check:
    return Check(kind, {"column": options.column, "within_us": options.within}, f"{kind}({options.column})")


def _sql(kind: CheckKind, query: str, output: str, inputs: Inputs) -> Check:
    if TABLE_MARK not in query:
        raise ValueError(f"expected a query of bad rows that names the table as {TABLE_MARK}")
    tables = inputs.of(query.replace(TABLE_MARK, output))
    others = tuple(table for table in tables if table != output)
    return Check(kind, {"query": query}, f"{kind}({' '.join(query.split())})", tables=others)


_MAKE: Mapping[CheckKind, Callable[[CheckKind, Any, str, Inputs], Check]] = {
    "not_null": _columns,
    "unique": _columns,
    "accepted_values": _accepted,
    "relationships": _relationships,
    "row_count": _row_count,
    "freshness": _freshness,
    "sql": _sql,
}
