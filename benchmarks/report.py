"""Findings of the benchmarks: figures against promises, as a table, as JSON, and latency over time as a PNG."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from service import Columns


@dataclass(frozen=True)
class Figure:
    """One number and what it must not fall below or rise above; without a limit it is only reported."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    sense: Literal["at least", "at most"] = "at most"

    @property
    def met(self) -> bool:
        """Whether the promise holds; a value that is not a number breaks it."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.sense == "at least" else self.value <= self.limit


@dataclass
class Report:
    """What one benchmark found: figures; for the picture series (seconds, value) and bars (label, value), by name."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    series: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    bars: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether every promise holds."""
        return all(figure.met for figure in self.figures)


def machine() -> dict[str, Any]:
    """Where this ran."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?:?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu.partition(":")[2].strip(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def show(reports: list[Report]) -> None:
    """Print the table."""
    table = Table(title="Figures and what was promised")
    for column in ("question", "figure", "value", "promised", ""):
        table.add_column(column, justify="right" if column in ("value", "promised") else "left")
    for report in reports:
        for figure in report.figures:
            promised = f"{figure.sense} {figure.limit:,g}" if figure.limit is not None else ""
            mark = "" if figure.limit is None else "[green]met[/]" if figure.met else "[bold red]missed[/]"
            table.add_row(report.title, figure.name, f"{_text(figure.value)} {figure.unit}", promised, mark)
        table.add_section()
    Console(width=140).print(table)


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def write(reports: list[Report], directory: Path, command: str, picture: str = "latency.png") -> Path:
    """Write results.json and the picture; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": machine(),
        "command": command,
        "met": all(report.met for report in reports),
        "reports": [asdict(report) | {"met": report.met} for report in reports],
    }
    (directory / "results.json").write_text(json.dumps(document, indent=1))
    _draw(reports, directory / picture)
    return directory


def _draw(reports: list[Report], file: Path) -> None:
    try:
        from matplotlib import use
        from matplotlib.figure import Figure as Drawing
    except ImportError:
        print("no picture: matplotlib comes with `pip install eagleray[bench]`")
        return
    use("Agg")
    drawn = [report for report in reports if report.series or report.bars]
    if not drawn:
        return
    drawing = Drawing(figsize=(12, 3 * len(drawn)), layout="constrained")
    for axes, report in zip(np.atleast_1d(drawing.subplots(len(drawn), 1)), drawn, strict=True):
        for name, (seconds, values) in report.series.items():
            axes.plot(seconds, values, label=name, linewidth=1)
        _draw_bars(axes, report.bars)
        axes.set_title(report.title)
        axes.set_xlabel("seconds" if report.series else "")
        axes.set_ylim(bottom=None if report.bars else 0)
        axes.legend(loc="upper left", fontsize="small")
        axes.grid(alpha=0.3)
    drawing.savefig(file, dpi=110)


def _draw_bars(axes: Any, bars: dict[str, dict[str, float]]) -> None:
    """Beside one another by label; on a logarithmic axis, since engines differ by orders of magnitude."""
    labels = list(dict.fromkeys(label for values in bars.values() for label in values))
    width = 0.8 / max(1, len(bars))
    for position, (name, values) in enumerate(bars.items()):
        places = [index + position * width for index, label in enumerate(labels) if label in values]
        axes.bar(places, [values[label] for label in labels if label in values], width, label=name)
    if labels:
        axes.set_xticks([index + 0.4 - width / 2 for index in range(len(labels))], labels, rotation=60, ha="right")
        axes.set_yscale("log")
        axes.set_ylabel("seconds")


def over_time(columns: Columns, every_s: float = 1.0) -> dict[str, tuple[list[float], list[float]]]:
    """Median and 99th percentile of latency in ms for each second of sending."""
    at = columns["intended"] - columns["intended"].min()
    latency_ms = (columns["answered"] - columns["intended"]) * 1000
    seconds, medians, tails = [], [], []
    for slot in range(int(at.max() // every_s) + 1):
        inside = latency_ms[(at >= slot * every_s) & (at < (slot + 1) * every_s)]
        if len(inside):
            p50, p99 = np.percentile(inside, (50, 99))
            seconds.append(slot * every_s)
            medians.append(float(p50))
            tails.append(float(p99))
    return {"p50 ms": (seconds, medians), "p99 ms": (seconds, tails)}
