"""Reads a SQL job: a header in a block comment, then one SELECT. The job is called like its file.

    /* eagleray
    output: reports.daily_edits
    mode: overwrite_partitions
    partition_by: [day]
    schedule: "0 2 * * *"
    */
    SELECT ...

The header ends at the first line that is `*/` alone, so that cron's `*/5` may stand in it.
"""

from __future__ import annotations

import re
from pathlib import Path

from eagleray.cluster.errors import QueryRejected
from eagleray.jobs.model import Job, Source
from eagleray.jobs.project.job_reader import Reader, refused
from eagleray.jobs.project.yaml_lines import YamlError, parse_map

_OPENING = re.compile(r"/\*\s*eagleray\s*")
_CLOSING = re.compile(r"\s*\*/\s*")


def read_sql_file(file: Path, reader: Reader) -> Job:
    """The job in `file`; raises ConfigError that names file, line and key."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise refused(file, 1, (), f"not readable: {error}") from None
    first, last = _header(file, lines)
    try:
        header = parse_map("\n" * first + "\n".join(lines[first:last]))
    except YamlError as error:
        raise refused(file, error.line, (), error.problem) from None
    start = next((number for number, text in enumerate(lines) if number > last and text.strip()), None)
    if start is None:
        raise refused(file, last + 1, (), "nothing follows the header; expected a SELECT")
    source = Source(file, start + 1, sql="\n".join(lines[start:]))
    try:
        reads = reader.inputs.of(padded(source))
    except QueryRejected as error:
        raise refused(file, source.line, (), str(error)) from None
    return reader.job(file.stem, source, header.values, reads, header.line)


def padded(source: Source) -> str:
    """The statement with as many empty lines before it as in its file, so that its lines are the file's."""
    return "\n" * (source.line - 1) + (source.sql or "")


def _header(file: Path, lines: list[str]) -> tuple[int, int]:
    """The index of the header's first line, and of the line that ends it."""
    opening = next((number for number, text in enumerate(lines) if text.strip()), 0)
    if not lines or not _OPENING.fullmatch(lines[opening]):
        raise refused(file, opening + 1, (), "expected `/* eagleray`, a header of `key: value` lines, and `*/`")
    for number in range(opening + 1, len(lines)):
        if _CLOSING.fullmatch(lines[number]):
            return opening + 1, number
    raise refused(file, opening + 1, (), "the header does not end; expected a line that is `*/`")
