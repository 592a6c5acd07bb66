"""What a shell offers for names of streams, jobs and tables: read from the project's files alone.

Used by options and arguments (`autocompletion`). Where something is wrong with the project, nothing is offered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

CONFIG_FILE = "eagleray.yaml"
_FUNCTION = re.compile(r"^@job\b.*?^(?:async )?def (\w+)", re.MULTILINE | re.DOTALL)
_OUTPUT = re.compile(r"""^\s*(?:@job\(.*?)?output\s*[:=]\s*['"]?([a-z0-9_]+\.[a-z0-9_]+)""", re.MULTILINE)


def streams(context: typer.Context, incomplete: str) -> list[str]:
    """Streams of the configuration."""
    return _beginning(incomplete, _section(context, "streams"))


def jobs(context: typer.Context, incomplete: str) -> list[str]:
    """Jobs of the project's folder."""
    found: list[str] = []
    for file in _job_files(context):
        if file.suffix == ".sql":
            found.append(file.stem)
        else:
            with suppress(OSError, UnicodeDecodeError):
                found += _FUNCTION.findall(file.read_text())
    return _beginning(incomplete, found)


def tables(context: typer.Context, incomplete: str) -> list[str]:
    """Tables that streams, their windows and jobs make."""
    found: list[str] = []
    for stream, settings in _section(context, "streams").items():
        windows = settings.get("windows") if isinstance(settings, dict) else None
        found += [f"{stream}.{table}" for table in ("events", "dead_letters", "late", *(windows or {}))]
    for file in _job_files(context):
        with suppress(OSError, UnicodeDecodeError):
            found += _OUTPUT.findall(file.read_text())
    return _beginning(incomplete, found)


def _beginning(incomplete: str, names: Any) -> list[str]:
    return sorted({str(name) for name in names if str(name).startswith(incomplete)})


def _file(context: typer.Context) -> Path:
    return Path(context.params.get("config_file") or CONFIG_FILE)


def _section(context: typer.Context, name: str) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(_file(context).read_text())
        return dict(found.get(name) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError, ValueError):
        return {}


def _job_files(context: typer.Context) -> Iterator[Path]:
    folder = _file(context).parent / str(_section(context, "jobs").get("folder") or "jobs")
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.suffix in (".sql", ".py") and not any(part.startswith(("_", ".")) for part in parts):
            yield file
