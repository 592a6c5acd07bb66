"""A phase of measuring: its plan, whose events no other phase's events can be taken for, and the frame it runs in."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from events import FIRST_SEQ
from load import Plan
from report import Report, show, write
from service import Service

OUT = Path(__file__).resolve().parent / "out"
PHASES_MAX = 8
_begun = 0


def plan(service: Service, **settings: Any) -> Plan:
    """A plan with numbers and ids that no earlier phase of this process, and no other process, has used."""
    global _begun
    _begun += 1
    if _begun > PHASES_MAX:
        raise RuntimeError(f"more than {PHASES_MAX} phases: numbers of ten digits are used up")
    run = f"{os.getpid() % 4096:03x}{_begun}"
    return replace(Plan(service.url, "plays", run=run, first_seq=_begun * FIRST_SEQ, key=service.key), **settings)


def arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The script's own options and those that all have."""
    parser.add_argument("--url", help="a running platform of benchmarks/game; default: one is started and stopped")
    parser.add_argument("--key-file", type=Path, help="with --url: the file of a key that may write `plays`")
    parser.add_argument("--out", type=Path, default=OUT, help="where results.json and latency.png go")
    return parser.parse_args()


def run(args: argparse.Namespace, measure: Callable[[Service], list[Report]]) -> None:
    """Start or find the platform, measure, stop it, print and write; exits 1 where a promise is missed."""
    with tempfile.TemporaryDirectory(prefix="eagleray-bench-") as directory:
        key = args.key_file.read_text().strip() if args.key_file else None
        service = Service(args.url, key=key) if args.url else Service.start(Path(directory) / "project")
        try:
            reports = measure(service)
        finally:
            code = service.stop()
    show(reports)
    print(f"written: {write(reports, args.out, ' '.join(sys.argv))}")
    if code:
        print(f"`eagleray up` ended with {code}", file=sys.stderr)
    sys.exit(0 if all(report.met for report in reports) and not code else 1)
