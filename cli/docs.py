"""`eagleray docs`: the pages of docs/, which come with the package, so that what an error message names is at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.installation import PACKAGE

PAGES = PACKAGE / "docs"


def docs(page: Annotated[str, typer.Argument(help="A page; without one, all are listed.")] = "") -> None:
    """Print a page of the documentation, or list the pages."""
    print(read(page) if page else "\n".join(f"{name:<20} {title(file)}" for name, file in pages().items()))


def pages() -> dict[str, Path]:
    """The file of each page, by the name that `eagleray docs` takes, in the order of names."""
    return {file.stem.lower(): file for file in sorted(PAGES.glob("*.md"), key=lambda file: file.stem.lower())}


def read(page: str) -> str:
    """The text of a page; raises ConfigError, which names all pages, where there is none of this name."""
    if (file := pages().get(page.lower().removesuffix(".md"))) is None:
        raise ConfigError(page, f"no such page; expected one of {', '.join(pages())}")
    return file.read_text(encoding="utf-8").rstrip()


def title(file: Path) -> str:
    """The title of a page: its first line."""
    with file.open(encoding=sys.getdefaultencoding()) as lines:
        return lines.readline().strip("# \n")
