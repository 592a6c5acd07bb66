"""Reads a SQL job: a header in a block comment, then one SELECT. The job is called like its file.

    /* eagleray
    output: reports.daily_edits
    mode: overwrite_partitions
    partition_by: [day]
    schedule: "0 2 * * *"
    */
    SELECT ...

The header ends at the first line that is `*/` alone, so that cron's `*/5` may stand in it. Comments may stand above it.
"""

from __future__ import annotations

import re
from pathlib import Path

from eagleray.cluster.errors import QueryRejected
from eagleray.cluster.yaml_lines import YamlError, YamlMap, parse_map
from eagleray.jobs.model import Job, Source
from eagleray.jobs.project.declared_checks import as_written
from eagleray.jobs.project.job_reader import Reader, refused
from eagleray.jobs.project.macros import Macro, expanded, read_macros
from eagleray.jobs.project.parameters import blanked

_OPENING = re.compile(r"/\*\s*eagleray\s*")
_QUOTED = re.compile(r"(?m)^(schedule:[ \t]+)([@*][^'\"\n#]*?)[ \t]*$")  # signs with which no word of YAML begins
_CLOSING = re.compile(r"\s*\*/\s*")


def read_sql_file(file: Path, reader: Reader) -> Job:
    """The job in `file`; raises ConfigError that names file, line and key."""
    try:
        # No other sign than a newline ends a line, and none is changed: in a string it is the user's.
        lines = file.read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise refused(file, 1, (), f"not readable: {error}") from None
    first, last = _header(file, lines)
    try:
        header = parse_map(
            "\n" * first + _QUOTED.sub(r"\1'\2'", "\n".join(line.rstrip("\r") for line in lines[first:last]))
        )
    except YamlError as error:
        raise refused(file, error.line, (), error.problem) from None
    start = next((number for number, text in enumerate(lines) if number > last and text.strip()), None)
    if start is None:
        raise refused(file, last + 1, (), "nothing follows the header; expected a SELECT")
    variables = reader.variables(header.values)
    source = Source(file, start + 1, sql="\n".join(lines[start:]))
    try:
        macros = _macros(file, reader, header)
        if macros:
            text = expanded(padded(source), macros, lambda text: reader.inputs.parse(blanked(text, variables)))
            source = Source(file, source.line, sql=text[source.line - 1 :])
        reads = reader.inputs.of(padded(source), variables)
    except QueryRejected as error:
        raise refused(file, source.line, (), str(error)) from None
    return reader.job(file.stem, source, as_written(header), reads, header.line)


def _macros(file: Path, reader: Reader, header: YamlMap) -> dict[str, Macro]:
    """The macros of the files that the header includes, which are beside the job's file or in the jobs' folder."""
    listed = header.values.get("include") or []
    found: dict[str, Macro] = {}
    for index, name in enumerate([listed] if isinstance(listed, str) else listed):
        places = [parent / str(name) for parent in (file.parent, reader.folder)]
        place = next((place for place in places if place.is_file()), None)
        key = ("include", index) if isinstance(listed, list) else ("include",)
        if place is None:
            raise refused(file, header.line(key), key, f"no file {name} beside {file.name} or in {reader.folder}")
        try:
            found |= read_macros(place)
        except (ValueError, OSError) as error:
            raise refused(file, header.line(key), key, str(error)) from None
    return found


def padded(source: Source) -> str:
    """The statement with as many empty lines before it as in its file, so that its lines are the file's."""
    return "\n" * (source.line - 1) + (source.sql or "")


def _header(file: Path, lines: list[str]) -> tuple[int, int]:
    """The index of the header's first line, and of the line that ends it."""
    opening = _after_comments(lines)
    if opening >= len(lines) or not _OPENING.fullmatch(lines[opening]):
        raise refused(
            file,
            min(opening, len(lines) - 1) + 1,
            (),
            "expected `/* eagleray`, a header of `key: value` lines, and `*/`",
        )
    for number in range(opening + 1, len(lines)):
        if _CLOSING.fullmatch(lines[number]):
            return opening + 1, number
    raise refused(file, opening + 1, (), "the header does not end; expected a line that is `*/`")


def _after_comments(lines: list[str]) -> int:
    """The index of the first line that is neither empty nor a comment of another kind than the header."""
    number = 0
    while number < len(lines):
        text = lines[number].strip()
        if text.startswith("/*") and not _OPENING.fullmatch(lines[number]):
            while number < len(lines) and "*/" not in lines[number]:
                number += 1
        elif text and not text.startswith("--"):
            break
        number += 1
    return number
