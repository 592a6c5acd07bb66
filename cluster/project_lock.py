"""One platform at a time: locks that the kernel releases when their holder dies. Taken by `up`, and by what stands in.

A data directory is one platform's, and so is a catalog, which two projects may name. Locks are on files, so the same
directory by another name (a symbolic link) is the same lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.file_lock import try_lock


@contextmanager
def project_lock(config: Config) -> Iterator[None]:
    """Hold the data directory, and the catalog where it is a file; raises EaglerayError where somebody else does."""
    config.data_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        _take(stack, config.data_dir / "lock", f"{config.data_dir} is in use")
        if config.catalog_uri.startswith("sqlite:///"):
            catalog = Path(config.catalog_uri.removeprefix("sqlite:///"))
            catalog.parent.mkdir(parents=True, exist_ok=True)
            # By the real path: a link to the file alone lies in another directory.
            _take(
                stack, catalog.resolve().with_name(f"{catalog.resolve().name}.up"), f"the catalog {catalog} is in use"
            )
        yield


def _take(stack: ExitStack, path: Path, problem: str) -> None:
    held = stack.enter_context(path.open("w"))
    if not try_lock(held):
        raise EaglerayError(f"{problem} by another `eagleray up`; stop it or use another --data")
