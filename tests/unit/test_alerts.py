"""deploy/ against the rest: alerts name a section that says what to do; rules and boards use metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from eagleray.cluster.telemetry.metrics import BY_NAME, PROCESS

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
OPERATIONS = (ROOT / "docs" / "OPERATIONS.md").read_text()
TESTED = sorted((ROOT / "tests" / "observability").glob("*.test.yml"))


def rules(file: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((RULES / file).read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for file in ("recording.yml", "alerts.yml"):
        for rule in rules(file):
            yield f"{file}: {rule.get('alert') or rule['record']}", rule["expr"]
    for board in sorted((ROOT / "deploy" / "dashboards").glob("*.json")):
        for panel in json.loads(board.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{board.name}: {panel['title']}", target["expr"]


@pytest.mark.parametrize("alert", rules("alerts.yml"), ids=lambda rule: rule["alert"])
def test_an_alert_names_a_section_that_says_what_it_means_how_to_see_it_and_what_to_do(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert page == "docs/OPERATIONS.md"
    titles = {title.lower(): title for title in re.findall(r"^### (Eagleray\w+)$", OPERATIONS, re.MULTILINE)}
    body = OPERATIONS.partition(f"### {titles[anchor]}\n")[2].partition("\n###")[0]
    assert all(f"- **{part}:** " in body for part in ("Means", "See", "Do"))
    assert alert["labels"]["severity"] in ("page", "ticket") and alert["annotations"]["summary"]


def test_no_section_is_for_an_alert_that_is_gone() -> None:
    named = {alert["annotations"]["runbook"].partition("#")[2] for alert in rules("alerts.yml")}
    assert {title.lower() for title in re.findall(r"^### (Eagleray\w+)$", OPERATIONS, re.MULTILINE)} == named


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=[where for where, _ in expressions()])
def test_every_expression_uses_metrics_and_labels_that_there_are(where: str, expression: str) -> None:
    recorded = {rule["record"] for rule in rules("recording.yml")}
    used = set(re.findall(r"(?<![\w:])[a-z_]+(?::\w+)+", expression))
    assert used <= recorded, where
    found = re.findall(r"(?<![\w:])eagleray_(\w+?)(?:_bucket|_count|_sum)?(?:\{(.*?)\}|\b)(?!:)", expression)
    assert found or used, where
    for name, selectors in found:
        labels = {*BY_NAME[name].labels, PROCESS, "le"}
        assert set(re.findall(r"(\w+)\s*[=!]~?\"", selectors)) <= labels, (where, name)


def test_every_alert_is_tested_to_fire_for_its_fault_and_to_be_silent_without() -> None:
    tried = [
        (one["alertname"], bool(one["exp_alerts"]))
        for file in TESTED
        for test in yaml.safe_load(file.read_text())["tests"]
        for one in test["alert_rule_test"]
    ]
    alerts = {alert["alert"] for alert in rules("alerts.yml")}
    assert {name for name, fires in tried if fires} == alerts
    assert {name for name, fires in tried if not fires} == alerts


def test_alerts_fire_for_their_fault_and_for_nothing_else() -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("there is no promtool here: .ci/servers installs it (Debian: apt-get install prometheus)")
    files = [str(RULES / "recording.yml"), str(RULES / "alerts.yml")]
    subprocess.run([promtool, "check", "rules", *files], check=True, capture_output=True)
    ran = subprocess.run([promtool, "test", "rules", *map(str, TESTED)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
