"""What a job's function takes: tables, in the form that each annotation asks for, and the period of the run.

Used when a project is loaded, for the inputs, and by `jobs.engines.function_call`, which calls it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eagleray.jobs.period import Period
from eagleray.jobs.project.declare import TableInput
from eagleray.sql.engine import identifier

Form = Literal["arrow", "batches", "polars", "polars_lazy", "pandas", "duckdb", "daft", "ray"]

FORMS: Mapping[tuple[str, str], Form] = {
    ("pyarrow", "Table"): "arrow",
    ("pyarrow", "RecordBatchReader"): "batches",
    ("polars", "DataFrame"): "polars",
    ("polars", "LazyFrame"): "polars_lazy",
    ("pandas", "DataFrame"): "pandas",
    ("duckdb", "DuckDBPyRelation"): "duckdb",
    ("daft", "DataFrame"): "daft",
    ("ray", "Dataset"): "ray",
}
_NAMES = (
    "pa.Table, pa.RecordBatchReader, polars DataFrame or LazyFrame, pandas DataFrame,"
    " duckdb DuckDBPyRelation, daft DataFrame, ray.data Dataset"
)


def form_of(kind: type) -> Form | None:
    """The form that `kind` is, by name, so that only libraries which are used are loaded."""
    return next((form for base in kind.__mro__ if (form := FORMS.get(_known_as(base)))), None)


def _known_as(kind: type) -> tuple[str, str]:
    return kind.__module__.partition(".")[0].lstrip("_"), kind.__name__


@dataclass(frozen=True)
class Argument:
    """An argument of a job's function. `form` None: whatever form suits the engine."""

    name: str
    table: TableInput | None  # None: the period
    form: Form | None = None

    @property
    def statement(self) -> str:
        """The rows as SQL, with parameters."""
        assert self.table is not None
        return selection(self.table)


def selection(table: TableInput) -> str:
    """The SQL that reads `table`."""
    columns = "*" if table.columns is None else ", ".join(map(identifier, table.columns))
    where = f" WHERE ({table.where}\n)" if table.where else ""
    return f"SELECT {columns} FROM {table.name}{where}"


def arguments(function: Callable[..., Any]) -> tuple[Argument, ...]:
    """The arguments of a job's function; raises ValueError that names the argument and what was expected."""
    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except NameError as error:
        raise ValueError(f"an annotation cannot be read: {error}; expected its import outside TYPE_CHECKING") from None
    return tuple(_argument(parameter) for parameter in parameters)


def statements(function: Callable[..., Any]) -> list[str]:
    """What a job's function reads, as SQL, with parameters. Raises as `arguments`."""
    return [one.statement for one in arguments(function) if one.table is not None]


def _argument(parameter: inspect.Parameter) -> Argument:
    name, wanted = parameter.name, parameter.annotation
    if isinstance(parameter.default, TableInput):
        if wanted is parameter.empty:
            return Argument(name, parameter.default)
        form = form_of(wanted) if isinstance(wanted, type) else None
        if form is None:
            raise ValueError(f"{name}: expected one of the annotations {_NAMES}, found {wanted!r}")
        return Argument(name, parameter.default, form)
    if wanted is Period:
        return Argument(name, None)
    raise ValueError(f'{name}: expected a default, table("namespace.table"), or the annotation Period')
