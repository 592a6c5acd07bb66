"""The owner's API key: made with a project, so that authentication is on from the first minute without a step more.

It lies in the data directory, readable by its owner alone and outside of version control. Commands of the same project
on the same machine find it there; nobody else does. Called by `eagleray init` and `up`, read by `cluster.client`.
"""

from __future__ import annotations

import os
from pathlib import Path

from eagleray.cluster.api_keys import open_keys
from eagleray.cluster.clock import Clock
from eagleray.cluster.config import Config

NAME = "owner"


def owner_key_file(data_dir: Path) -> Path:
    """Where the owner's key of a project is."""
    return data_dir / "owner.key"


def ensure_owner_key(config: Config, clock: Clock) -> bool:
    """Make the owner's key, with scope admin, where the project has no working key yet; True if it was made."""
    store = open_keys(config, clock)
    if any(key.revoked_us is None for key in store.keys()):
        return False
    make_private(config.data_dir)
    key = store.create(NAME, ["admin"])
    file = owner_key_file(config.data_dir)
    file.unlink(missing_ok=True)  # of a store that is gone
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
        out.write(key + "\n")
    return True


def read_owner_key(data_dir: Path) -> str | None:
    """The owner's key; None where there is none that this user may read."""
    try:
        return owner_key_file(data_dir).read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def make_private(data_dir: Path) -> None:
    """Make `data_dir` if need be, and close it to other users of the machine: it holds events and keys."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if data_dir.stat().st_mode & 0o077:
        data_dir.chmod(0o700)
