"""The reference of jobs says what is: keys, defaults, modes, parameters, checks, forms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from eagleray.cluster.quantities import format_duration
from eagleray.jobs.dataset import Dataset
from eagleray.jobs.engines.duckdb import PYTHON_BYTES
from eagleray.jobs.model import CheckKind, Mode
from eagleray.jobs.project.header import Header
from eagleray.jobs.project.job_reader import BUILT_IN
from eagleray.jobs.project.load import load_project
from eagleray.jobs.project.parameters import PARAMETERS
from eagleray.jobs.project.signature import FORMS
from tests.jobs_project import make_project

TEXT = (Path(__file__).parents[2] / "docs" / "jobs-reference.md").read_text()


def rows(title: str) -> dict[str, str]:
    """The first two columns of the table below a heading."""
    section = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", section, re.MULTILINE))


def test_every_header_key_is_documented_with_its_default() -> None:
    shown = {key: cell.strip("`") for key, cell in rows("Header keys").items()}
    assert list(shown) == list(Header.model_fields)
    for key, field in Header.model_fields.items():
        default = field.default
        if field.is_required():
            assert shown[key] == "required"
        elif key in ("timezone", "memory"):
            assert shown[key].startswith("jobs.")
        elif key in ("backoff", "timeout"):
            assert shown[key] == format_duration(default)
        elif default in (None, (), ""):
            assert shown[key] == "none"
        else:
            assert shown[key] == (
                str(default).lower()
                if isinstance(default, bool)
                else f"{default:g}"
                if isinstance(default, float)
                else str(default)
            )
    assert f"less {PYTHON_BYTES >> 20} MiB" in TEXT


def test_modes_parameters_checks_and_forms_are_documented() -> None:
    assert list(rows("Modes")) == list(get_args(Mode))
    assert [name.removeprefix("$") for name in rows("Parameters")] == list(PARAMETERS)
    assert list(rows("Checks")) == list(get_args(CheckKind))
    assert [(name.partition(".")[0], name.rpartition(".")[2]) for name in rows("Functions")] == list(FORMS)
    assert all(f"`{name}`" in TEXT for name in BUILT_IN)
    methods = {name.removesuffix("()") for name in rows("dataset")}
    assert methods == {form for form in FORMS.values()}
    assert all(callable(getattr(Dataset, name)) for name in methods)


def test_the_examples_are_jobs(tmp_path: Path) -> None:
    sql, python = re.findall(r"```(?:sql|python)\n(.*?)```", TEXT, re.DOTALL)[:2]
    streams = {"wiki_edits": {"schema": "w.json", "time": "time"}}
    files = {"edits.sql": sql, "f.py": python, "pages.sql": "/* eagleray\noutput: dim.pages\n*/\nSELECT 1 AS page\n"}
    project = load_project(make_project(tmp_path, files, streams=streams))
    assert project.graph.order() == ["edits", "pages", "busy"]
