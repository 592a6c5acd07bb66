"""Loads users' Python files by path, under private module names: a folder called jobs/ stands in for nothing.

The folder counts as a package, so `from ._shared import x` finds jobs/_shared.py. A file is run once per content.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

from eagleray.cluster.errors import ConfigError

_PREFIX = "_eagleray_jobs_"
_loading = RLock()


@dataclass(frozen=True)
class UserFunction:
    """A function in a user's file. Pickles as where it is: the process that receives it loads the file itself."""

    folder: Path
    file: Path
    name: str

    @property
    def target(self) -> Callable[..., Any]:
        """The function itself."""
        found: Callable[..., Any] = getattr(load_file(self.folder, self.file), self.name)
        return found

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function itself, for `inspect.signature`."""
        return self.target

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it."""
        return self.target(*arguments, **named)

    @property
    def package(self) -> ModuleType:
        """The package that stands for the folder: no other process can import it."""
        return sys.modules[self.target.__module__.partition(".")[0]]


def load_file(folder: Path, file: Path) -> ModuleType:
    """The module of `file`, which is somewhere in `folder`; raises ConfigError where the file itself raises."""
    with _loading:
        package = _package(folder)
        inner = file.relative_to(folder).with_suffix("")
        name = ".".join([package, *(part.replace(".", "_") for part in inner.parts)])
        for depth in range(1, len(inner.parts)):
            _as_package(".".join([package, *inner.parts[:depth]]), folder.joinpath(*inner.parts[:depth]))
        if name in sys.modules:
            return sys.modules[name]
        return _run(name, file)


def _package(folder: Path) -> str:
    """The package that stands for `folder` as it is now; one for an earlier state is forgotten."""
    files = sorted(folder.rglob("*.py"))
    stamp = repr([(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files])
    place = _PREFIX + blake2b(str(folder).encode(), digest_size=6).hexdigest()
    package = f"{place}_{blake2b(stamp.encode(), digest_size=6).hexdigest()}"
    if package not in sys.modules:
        for name in [name for name in sys.modules if name.startswith(place)]:
            del sys.modules[name]
        _as_package(package, folder)
    return package


def _as_package(name: str, folder: Path) -> None:
    if name not in sys.modules:
        module = sys.modules[name] = ModuleType(name)
        module.__path__ = [str(folder)]


def _run(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):  # a file may not end whoever reads it
            raise
        line = _line(error, file)
        raise ConfigError(f"{file}:{line}", f"the file cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _line(error: BaseException, file: Path) -> int:
    """The line of `file` at which `error` came up."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno or 1
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return frames[-1].lineno or 1 if frames else 1
