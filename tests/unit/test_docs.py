"""The documentation says what is: settings, commands, routes, metrics and files are compared with the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.main import get_command

from eagleray.actors.edge.route_table import table
from eagleray.cli.app import COMMANDS, build
from eagleray.cluster.config import Config
from eagleray.cluster.quantities import format_duration
from eagleray.cluster.sections import (
    CalendarConfig,
    DurationUs,
    EdgeConfig,
    EmailConfig,
    JwtConfig,
    KafkaSaslConfig,
    KafkaTlsConfig,
    LineageConfig,
    NotifyConfig,
    PostgresConfig,
    StreamConfig,
    TlsConfig,
    WebhookConfig,
    WindowConfig,
)
from eagleray.cluster.telemetry.metrics import METRICS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PER_STREAM = {
    "edge.tls": TlsConfig,
    "edge.jwt": JwtConfig,
    "log.kafka.tls": KafkaTlsConfig,
    "log.kafka.sasl": KafkaSaslConfig,
    "sql.postgres": PostgresConfig,
    "jobs.notify": NotifyConfig,
    "jobs.notify.webhook": WebhookConfig,
    "jobs.notify.email": EmailConfig,
    "jobs.lineage": LineageConfig,
    "jobs.calendars.<calendar>": CalendarConfig,
    "streams.<stream>": StreamConfig,
    "streams.<stream>.windows.<window>": WindowConfig,
}
COMPUTED = {"data_dir": "data", "lake.warehouse": "data_dir/lake", "lake.catalog.uri": "data_dir/catalog.db"}


def rows(text: str) -> dict[str, list[str]]:
    """Rows of Markdown tables whose first cell is code, by that cell."""
    found = {}
    for line in text.splitlines():
        if match := re.match(r"\| `([^`]+)` \|(.*)\|$", line):
            found[match[1]] = [cell.strip().strip("`") for cell in match[2].split("|")]
    return found


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return {title.strip().strip("`"): body for title, body in zip(parts[1::2], parts[2::2], strict=True)}


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, Any]]:
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            for inner, info, _ in settings(type(default), key + "."):
                yield inner, info, _value(default, inner.removeprefix(key + "."))
        else:
            yield key, field, default


def _value(section: BaseModel, key: str) -> Any:
    for part in key.split("."):
        section = getattr(section, "validate_" if part == "validate" else part)
    return section


def shown(key: str, field: FieldInfo, default: Any) -> str:
    if key in COMPUTED:
        return COMPUTED[key]
    if field.is_required():
        return "required"
    if default is None:
        return "none"
    if field.metadata and any(mark in get_args(DurationUs) for mark in field.metadata) and isinstance(default, int):
        return format_duration(default)
    if isinstance(default, tuple):
        return f"[{', '.join(default)}]"
    return str(default)


@pytest.mark.parametrize("section", ["edge", "log", "lake", "sql", "pools", "ray", "slo"])
def test_every_setting_is_documented_with_its_default(section: str) -> None:
    documented = {
        key: cells[0] for key, cells in rows(sections((DOCS / "configuration.md").read_text())[section]).items()
    }
    model = type(getattr(Config(), section))
    expected = {key: shown(key, field, default) for key, field, default in settings(model, section + ".")}
    assert documented == expected


@pytest.mark.parametrize("title", PER_STREAM)
def test_every_setting_of_a_stream_or_an_option_is_documented_with_its_default(title: str) -> None:
    documented = {
        key: cells[0] for key, cells in rows(sections((DOCS / "configuration.md").read_text())[title]).items()
    }
    expected = {key: shown(key, field, default) for key, field, default in settings(PER_STREAM[title])}
    assert documented == expected


def test_every_section_is_documented() -> None:
    documented = rows(sections((DOCS / "configuration.md").read_text())["Top level"])
    assert list(documented) == [name for name in Config.model_fields if name != "file"]


def test_every_command_is_documented_and_answers_help() -> None:
    documented = sections((DOCS / "cli.md").read_text())
    assert list(documented) == [f"eagleray {name}" for name in COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_in_the_documentation_exists(name: str) -> None:
    text = sections((DOCS / "cli.md").read_text())[f"eagleray {name}"]
    loaded = get_command(build(name)).commands[name]  # type: ignore[attr-defined]
    commands = [loaded, *getattr(loaded, "commands", {}).values()]
    parameters = [parameter for command in commands for parameter in command.params]
    options = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= options
    for inner in getattr(loaded, "commands", {}):
        assert f"eagleray {name} {inner}" in text


def test_commands_in_the_help_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(build(), typer.Typer)
    assert all(entry.help.endswith(".") and len(entry.help) < 80 for entry in COMMANDS.values())


def test_every_route_is_documented() -> None:
    handlers: Any = dict.fromkeys(("ingest", "windows", "sql", "pools", "status", "openapi"), _Any())
    routes = table(EdgeConfig(), **handlers)
    documented = re.findall(r"^\| `(GET|POST|PUT|DELETE) ([^`?]+)` \|", (DOCS / "http.md").read_text(), re.MULTILINE)
    assert documented == [(route.method, route.path) for route in routes]


class _Any:
    """Stands where a handler is bound; a route's method and path do not depend on it."""

    def __getattr__(self, name: str) -> Any:
        return None


def test_every_metric_is_documented() -> None:
    documented = rows((DOCS / "metrics.md").read_text())
    assert {metric.name: metric.type for metric in METRICS} == {name: cells[0] for name, cells in documented.items()}


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.name)
def test_links_and_files_named_in_the_documentation_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for file in re.findall(r"`((?:cli|sql|cluster|actors|jobs|docs|tests|benchmarks|examples)/[\w./]+\.\w+)`", text):
        assert (ROOT / file).exists(), file


def test_the_architecture_is_read_in_one_sitting() -> None:
    assert len((DOCS / "ARCHITECTURE.md").read_text().splitlines()) <= 150


def test_every_decision_is_one_page_with_context_choice_and_cost() -> None:
    for page in (DOCS / "adr").glob("*.md"):
        text = page.read_text()
        assert all(f"**{part}.**" in text for part in ("Context", "Choice", "Cost")), page.name
        assert len(text.splitlines()) <= 60, page.name


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.name)
def test_configuration_shown_in_the_documentation_is_yaml(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        assert isinstance(yaml.safe_load(block), dict)


def test_every_fault_names_tests_that_exist_or_says_not_yet() -> None:
    table = re.findall(r"^\| (\d+) \|(.*)\|$", (DOCS / "faults.md").read_text(), re.MULTILINE)
    numbers = [int(number) for number, _ in table]
    assert numbers == sorted(set(numbers)) and numbers[:47] == list(range(1, 48))
    for number, row in table:
        cell = row.split("|")[-1]
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", cell)
        nightly = re.match(r" `make ([\w-]+)`, .*\(nightly\)", cell)
        assert not nightly or f"\n{nightly[1]}: " in (ROOT / "Makefile").read_text(), f"{number}: {cell}"
        assert named or nightly or cell.strip() == "not yet", f"{number}: {cell}"
        for file, test in named:
            assert re.search(rf"^ *(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{number}: {test}"
