"""The demo, as a newcomer runs it but shorter: exits 0 only if every table holds exactly what was accepted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.platform


def test_the_demo_is_exact(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eagleray", "demo", "demo", "--seconds", "8", "--rate", "900"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "every accepted event is in its table, once" in done.stdout
