"""The audit lets through what was looked at, for as long as it was said, and never takes "not looked up" for clean."""

from __future__ import annotations

import importlib.util
import logging
import sys
from datetime import date, timedelta
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TODAY = date(2026, 1, 2)


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module
    spec.loader.exec_module(module)
    return module


audit = _loaded()
FOUND = audit.Finding("one", "CVE-1", "in 1.0, mended in 1.1")


def exception(**changes: Any) -> dict[str, Any]:
    return {"package": "one", "finding": "CVE-1", "reason": "not in our path", "expires": TODAY, **changes}


def test_an_exception_holds_until_its_day_and_fails_after_it() -> None:
    assert audit.judged([FOUND], [], TODAY) == ["one: CVE-1: in 1.0, mended in 1.1"]
    assert audit.judged([FOUND], [exception()], TODAY) == []
    late = audit.judged([FOUND], [exception()], TODAY + timedelta(days=1))
    assert late == [str(FOUND), "the exception for one (CVE-1) ended on 2026-01-02: look at it again"]


def test_an_exception_that_excuses_nothing_or_has_no_reason_is_a_problem() -> None:
    assert "excuses nothing" in audit.judged([], [exception()], TODAY)[0]
    assert "gives no reason" in audit.judged([FOUND], [exception(reason=" ")], TODAY)[0]
    other = audit.judged([FOUND], [exception(finding="CVE-2")], TODAY)
    assert other[0] == str(FOUND) and len(other) == 2


@pytest.mark.parametrize(
    ("expression", "held"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-2.0 OR MIT", True),
        ("MIT AND GPL-2.0", False),
        ("(MIT AND Zlib)", True),
    ],
)
def test_licences_are_read_as_expressions(expression: str, held: bool) -> None:
    assert audit.allowed(expression, ["MIT", "Zlib"]) == held


def test_packages_without_a_licence_are_found_and_absent_ones_are_not() -> None:
    def find(name: str) -> str | None:
        if name == "absent":
            raise PackageNotFoundError(name)
        return {"good": "MIT", "bad": "Proprietary"}.get(name)

    found = audit.licence_findings(["good", "bad", "none", "absent"], ["MIT"], find)
    assert [(one.package, one.detail) for one in found] == [("bad", "Proprietary"), ("none", "it names none")]


def test_what_could_not_be_looked_up_is_not_taken_for_clean() -> None:
    report = {
        "dependencies": [
            {"name": "one", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]},
            {"name": "two", "skip_reason": "not found"},
            {"name": "three", "version": "1", "vulns": []},
        ]
    }
    assert audit.advisory_findings(report) == ([FOUND], ["two"])


def test_the_lock_and_its_exceptions_pass_today() -> None:
    packages = audit.locked((ROOT / "requirements.lock").read_text())
    rules = audit.tomllib.loads((ROOT / ".ci" / "audit.toml").read_text())
    assert len(packages) > 100 and "pyiceberg" in packages
    excused = [one for one in rules["exception"] if one["finding"] == "licence"]
    assert audit.judged(audit.licence_findings(packages, rules["licences"]), excused, audit._today()) == []


def test_a_library_that_tells_of_every_table_it_opens_is_not_heard() -> None:
    from eagleray.cluster.telemetry.logging import configure

    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        configure("json", "info")
        assert not logging.getLogger("pyiceberg.io").isEnabledFor(logging.INFO)
        assert logging.getLogger("pyiceberg.io").isEnabledFor(logging.WARNING)
        assert logging.getLogger("eagleray").isEnabledFor(logging.INFO)
    finally:
        logging.getLogger().handlers[:], level = before
        logging.getLogger().setLevel(level)
