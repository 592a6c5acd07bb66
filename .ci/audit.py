"""`make audit`: advisories and licences of everything in requirements.lock, with exceptions that end; and the SBOM.

Exits 1 where a package has an advisory or a licence that no exception allows, or an exception is past its date or is
not needed; 2 where advisories could not be looked up. `--offline` says that they were not, and
judges the rest: `make lint` does so, and needs no tools for it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from eagleray.cluster.clock import SystemClock

HERE = Path(__file__).parent
LOCK = HERE.parent / "requirements.lock"
# What packages of before PEP 639 say instead of an SPDX identifier.
SPELLINGS = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}


@dataclass(frozen=True)
class Finding:
    """What is wrong with a package: `licence`, or an advisory's identifier."""

    package: str
    finding: str
    detail: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.package}: {self.finding}: {self.detail}"


def locked(lock: str) -> list[str]:
    """Names of the packages in a lock file."""
    return sorted(set(re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)))


def licence_of(package: str) -> str | None:
    """What an installed package says of its licence, as an SPDX expression where it can be made one; None: nothing.

    Raises PackageNotFoundError where it is not installed (of another platform or version of Python).
    """
    about = metadata(package)
    if expression := about.get("License-Expression"):
        return str(expression)
    classified = [text.split(" :: ")[-1] for text in about.get_all("Classifier", []) if text.startswith("License ::")]
    said = [text for text in classified if text not in ("OSI Approved", "DFSG approved")]
    said = said or (about.get("License") or "").strip().splitlines()[:1]
    return " OR ".join(SPELLINGS.get(text.lower(), text) for text in said) or None


def allowed(expression: str, licences: Iterable[str]) -> bool:
    """Whether an SPDX expression asks for no more than `licences`."""
    known = set(licences)
    choices = re.split(r"\s+OR\s+", expression.replace("(", " ").replace(")", " ").strip())
    return any(all(part.strip() in known for part in re.split(r"\s+AND\s+", choice)) for choice in choices)


def licence_findings(
    packages: Iterable[str], licences: Iterable[str], find: Callable[[str], str | None] = licence_of
) -> Iterator[Finding]:
    """Packages that are installed and whose licence is not among `licences`."""
    for package in packages:
        try:
            said = find(package)
        except PackageNotFoundError:
            continue
        if said is None:
            yield Finding(package, "licence", "it names none")
        elif not allowed(said, licences):
            yield Finding(package, "licence", said)


def advisory_findings(report: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    """Advisories in pip-audit's report, and the packages that it could not look up."""
    found, skipped = [], []
    for one in report["dependencies"]:
        if "skip_reason" in one:
            skipped.append(one["name"])
        for advisory in one.get("vulns", ()):
            mended = ", ".join(advisory["fix_versions"]) or "no version"
            found.append(Finding(one["name"], advisory["id"], f"in {one['version']}, mended in {mended}"))
    return found, skipped


def judged(findings: Iterable[Finding], exceptions: Iterable[dict[str, Any]], today: date) -> list[str]:
    """What is not excused, in sentences; exceptions that are past their date, or excuse nothing, are among them."""
    found = {(one.package, one.finding): one for one in findings}
    problems = []
    for exception in exceptions:
        key = (exception["package"], exception["finding"])
        name = f"the exception for {key[0]} ({key[1]})"
        if not exception.get("reason", "").strip():
            problems.append(f"{name} gives no reason")
        if exception["expires"] < today:
            problems.append(f"{name} ended on {exception['expires']}: look at it again")
        elif found.pop(key, None) is None:
            problems.append(f"{name} excuses nothing any more: remove it from .ci/audit.toml")
    return [*map(str, found.values()), *problems]


def _advisories(tools: Path) -> tuple[list[Finding], list[str]]:
    command = [tools / "pip-audit", "-r", LOCK, "--require-hashes", "--disable-pip", "-f", "json"]
    done = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True)
    try:
        return advisory_findings(json.loads(done.stdout))
    except (ValueError, KeyError):
        print(done.stderr[-500:], file=sys.stderr)
        return [], ["all packages"]


def _bill(tools: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [tools / "cyclonedx-py", "environment", sys.executable, "--pyproject", HERE.parent / "pyproject.toml"]
    subprocess.run([*command, "--output-reproducible", "--of", "JSON", "-o", target], check=True)
    print(f"wrote {target}")


def main() -> None:
    """Run the audit, or write the SBOM."""
    parser = argparse.ArgumentParser(description="Audit what requirements.lock installs.")
    parser.add_argument("--tools", type=Path, default=Path(".venv/audit/bin"), help="of pip-audit and cyclonedx-py")
    parser.add_argument("--offline", action="store_true", help="advisories cannot be looked up from here")
    parser.add_argument("--sbom", type=Path, help="write the bill of materials there (CycloneDX), and nothing else")
    args = parser.parse_args()
    if args.sbom:
        _bill(args.tools, args.sbom)
        return
    rules = tomllib.loads((HERE / "audit.toml").read_text())
    packages = locked(LOCK.read_text())
    findings = list(licence_findings(packages, rules["licences"]))
    exceptions = rules["exception"]
    skipped: list[str] = []
    if args.offline:
        exceptions = [one for one in exceptions if one["finding"] == "licence" or one["expires"] < _today()]
        print("advisories: NOT LOOKED UP (--offline)")
    else:
        advisories, skipped = _advisories(args.tools)
        findings += advisories
    problems = judged(findings, exceptions, _today())
    print("\n".join([*problems, f"{len(packages)} packages, {len(problems)} problems"]))
    if problems:
        sys.exit(1)
    if skipped:
        print(f"advisories of {len(skipped)} could not be looked up, such as {skipped[0]}; see --offline")
        sys.exit(2)


def _today() -> date:
    return datetime.fromtimestamp(SystemClock().now_us() / 1e6, UTC).date()


if __name__ == "__main__":
    main()
