"""What users import is `eagleray`, typed, beside any folders and files of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import eagleray

ROOT = Path(__file__).parents[2]
JOB = """
from eagleray import Period, job, table

@job(output="reports.doubled", schedule="0 2 * * *")
def doubled(period: Period, events: "pandas.DataFrame" = table("plays.events")) -> "pandas.DataFrame":
    return events * 2
"""


@pytest.mark.parametrize("name", ["jobs", "cluster", "actors", "sql", "cli"])
def test_a_users_own_module_of_any_name_hides_nothing_of_ours(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    program = (
        "import eagleray; print(*(getattr(eagleray, name) is not None for name in eagleray.__all__));"
        "import eagleray.cli.job, eagleray.sql.query, eagleray.actors.messages"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert "False" not in ran.stdout


def test_the_package_alone_loads_nothing_heavy() -> None:
    program = "import sys, eagleray; print(*{'ray', 'pyarrow', 'duckdb', 'pyiceberg'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not ran.stdout.strip()


def test_an_unknown_name_is_an_attribute_error_that_names_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'jop'; it offers .*job"):
        _ = eagleray.jop  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_distribution() -> None:
    stated = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version"))
    for command in (["-m", "eagleray", "--version"],):
        ran = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True, cwd=ROOT)
        assert ran.stdout.strip() == f"eagleray {eagleray.__version__}"
    assert stated == f'version = "{eagleray.__version__}"'


def test_a_users_typed_job_passes_mypy_strict(tmp_path: Path) -> None:
    file = tmp_path / "doubled.py"
    file.write_text(JOB.replace("from eagleray", "import pandas\nfrom eagleray", 1))
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--config-file=", str(file)]
    environment = {**os.environ, "MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(tmp_path / "cache")}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout
    file.write_text(JOB.replace("output=", "outputs="))  # the decorator's options are known
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, cwd=tmp_path)
    assert ran.returncode == 1 and 'Unexpected keyword argument "outputs"' in ran.stdout


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_wheel_holds_the_library_in_c_the_documentation_and_the_projects_of_init_and_demo(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("eagleray", "cluster", "sql", "actors", "jobs", "cli", "examples", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", "_columnar.*")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(source)], check=True, cwd=tmp_path, timeout=250)
    (wheel,) = tmp_path.glob("*.whl")
    held = zipfile.ZipFile(wheel).namelist()
    for expected in (
        "eagleray/cluster/events/_columnar.",
        "eagleray/py.typed",
        "eagleray/docs/jobs.md",
        "eagleray/cli/project/eagleray.yaml",
        "eagleray/cli/project/gitignore",
        "eagleray/cli/demo/project/eagleray.yaml",
        "eagleray/cli/sizing.yaml",
    ):
        assert any(name.startswith(expected) for name in held), expected
    assert all(name.startswith(("eagleray/", "eagleray-")) for name in held)
