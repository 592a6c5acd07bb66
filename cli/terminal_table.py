"""Prints a table that fits the terminal: wide columns are shortened, then some are left out, and it says which.

The one way in which commands print tables, and facts about one thing. What identifies a row (an id, a name) is never
cut, so that it can be copied. Where the output is no terminal nothing is shortened or left out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.text import Text

GAP = 2  # blanks between columns
LEAST = 10  # characters of a column that is shortened; a table with narrower ones says nothing
_WIDTH_MAX = 1_000_000  # where the output is no terminal
WIDER = "a wider terminal, or `| cat`, shows all"  # of commands that have no form for programs


@dataclass(frozen=True)
class Fit:
    """Which columns are shown, how wide, and which are not."""

    widths: dict[int, int]  # by index, in order
    hidden: tuple[int, ...]


def fit(widths: Sequence[int], width: int, whole: Collection[int] = (), first_to_go: Sequence[int] = ()) -> Fit:
    """Fit columns of these natural widths into `width` characters.

    `whole` are never cut or left out. Columns go in the order of `first_to_go`, then from the right; what is left is
    shortened where it is widest.
    """
    shown = dict(enumerate(widths))
    order = [*first_to_go, *(at for at in reversed(range(len(widths))) if at not in first_to_go)]
    going = [at for at in order if at not in whole]

    def least() -> int:
        return sum(w if at in whole else min(w, LEAST) for at, w in shown.items()) + GAP * (len(shown) - 1)

    while least() > width and going and len(shown) > 1:
        shown.pop(going.pop(0))
    while sum(shown.values()) + GAP * (len(shown) - 1) > width:
        cut = [at for at in shown if at not in whole and shown[at] > LEAST]
        if not cut:
            break
        widest = max(cut, key=lambda at: shown[at])
        others = max([LEAST, *(shown[at] for at in cut if shown[at] < shown[widest])])
        over = sum(shown.values()) + GAP * (len(shown) - 1) - width
        alike = [at for at in cut if shown[at] == shown[widest]]
        for at in alike:
            shown[at] -= min(-(-over // len(alike)), max(1, shown[at] - others))
    return Fit(shown, tuple(at for at in range(len(widths)) if at not in shown))


def print_table(
    names: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    out: TextIO,
    *,
    right: Collection[str] = (),
    whole: Collection[str] = (),
    first_to_go: Sequence[str] = (),
    all_with: str = "--format json shows all",
) -> None:
    """Print `rows` below `names`.

    `right`: columns that are aligned to the right; `whole`: never cut; `first_to_go`: left out before others, where
    there is no room; `all_with`: how to see everything, for the line that names what is hidden.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, width=None if out.isatty() else _WIDTH_MAX, highlight=False)
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    natural = [max([Text(name).cell_len, *(row[at].cell_len for row in cells)]) for at, name in enumerate(names)]
    fitted = fit(natural, console.width, _places(names, whole), _places(names, first_to_go))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))  # with the box: GAP
    for at, width in fitted.widths.items():
        justify: Any = "right" if names[at] in right else "left"
        table.add_column(Text(names[at]), justify=justify, no_wrap=True, overflow="ellipsis", width=width)
    for row in cells:
        table.add_row(*(row[at] for at in fitted.widths))
    console.print(table, soft_wrap=False)
    if fitted.hidden:
        left_out = ", ".join(names[at] for at in fitted.hidden)
        count = len(fitted.hidden)
        said = f"{count} column{'' if count == 1 else 's'} hidden: {left_out}; {all_with}"
        console.print(said, style="dim", markup=False, soft_wrap=True)


def print_facts(facts: Sequence[tuple[str, str]], out: TextIO, *, whole: Collection[str] = (), indent: int = 0) -> None:
    """Print each name with what is to be said of it, wrapped between words below itself; nothing is hidden.

    `whole`: names of facts that are one line however long, such as commands: a terminal copies what it folds itself.
    """
    from rich.console import Console

    width = Console(file=out).width if out.isatty() else _WIDTH_MAX
    begin = indent + max((len(name) for name, _ in facts), default=0) + GAP
    for name, said in facts:
        head = f"{'':<{indent}}{name}"
        if name in whole or width <= begin + LEAST:
            print(f"{head:<{begin}}{said}", file=out)
            continue
        rest = " " * begin
        print(textwrap.fill(said, width, initial_indent=f"{head:<{begin}}", subsequent_indent=rest), file=out)


def _places(names: Sequence[str], chosen: Collection[str]) -> list[int]:
    return [names.index(name) for name in chosen if name in names]
