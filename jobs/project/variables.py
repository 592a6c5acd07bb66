"""Variables of jobs: `vars` in the configuration or a header, and `--var NAME=VALUE`, as constants of SQL (`$name`)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.yaml_lines import Written, YamlError, parse_map
from eagleray.jobs.project.parameters import PARAMETERS
from eagleray.sql.engine import literal

_PLAIN = re.compile(r"-?\d+\.\d+")
NAME = r"[a-z][a-z0-9_]{0,62}"


def constants(declared: Mapping[str, Any], given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Name and SQL constant of every variable, with values that were `given` in text; raises ValueError."""
    found = []
    for name, value in sorted(declared.items()):
        check_name(name)
        value = _read(name, given[name], value) if name in given else value
        found.append((name, constant(name, value)))
    return tuple(found)


def check_name(name: str) -> None:
    """Raise ValueError for what cannot be a variable's name."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name) or name in PARAMETERS:
        taken = ", ".join(PARAMETERS)
        raise ValueError(f"{name!r} is no name of a variable; expected a-z, 0-9 and _, and not {taken}")


def constant(name: str, value: Any) -> str:
    """A value as SQL; raises ValueError for one that no constant has."""
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case Written() if _PLAIN.fullmatch(value.text):
            return value.text
        case float():
            return repr(float(value)) if math.isfinite(value) else f"CAST('{value}' AS DOUBLE)"
        case str():
            return literal(value)
        case datetime():
            at = value if value.tzinfo else value.replace(tzinfo=UTC)
            return f"TIMESTAMPTZ '{at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00'"
        case date():
            return f"DATE '{value.isoformat()}'"
        case list() | tuple() if value and all(not isinstance(one, list | tuple | dict) for one in value):
            return f"({', '.join(constant(name, one) for one in value)})"
    raise ValueError(f"{name}: expected text, a number, a date, true, false, null or a list of these, found {value!r}")


def given(options: Iterable[str]) -> dict[str, str]:
    """The options `--var NAME=VALUE`; raises ConfigError."""
    found = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise ConfigError("--var", f"expected NAME=VALUE, found {option!r}")
        found[name] = value
    return found


def _read(name: str, text: str, declared: Any) -> Any:
    """A value as text, of the kind that is declared: where that is text, as it stands."""
    if isinstance(declared, str):
        return text
    try:
        value = parse_map(f"value: {text}").values["value"]
    except YamlError as error:
        raise ValueError(f"{name}: {text!r}: {error.problem}") from None
    kinds = (int, float) if isinstance(declared, float) else (type(declared),)
    if declared is not None and not isinstance(value, kinds):
        kind = float if isinstance(declared, float) else type(declared)
        raise ValueError(f"{name}: expected {_KINDS.get(kind, 'another value')}, found {text!r}")
    return value


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", date: "a date", list: "a list"}
