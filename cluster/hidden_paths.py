"""Takes paths of this machine out of texts that leave it: where its files are is nobody's business but its operator's.

Called by the edge with the words of every error that it answers with. The whole text stays in the process's log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_PART = r"[^\s/'\"`,;:()\[\]{}<>|]"
_PATH = re.compile(
    rf"""
    (?P<quote>['"`])/(?:[^/'"`\n]+/)+(?P<quoted>[^/'"`\n]*)(?P=quote)   # in quotes, a name may have blanks
    | (?:\b(?:sqlite|file)(?:\+\w+)?:/*|(?<![\w./:…~-]))/(?:{_PART}+/)+(?P<last>{_PART}*)
    """,
    re.VERBOSE,
)


def without_paths(text: str, places: Iterable[Path] = ()) -> str:
    """`text` with `…` for each of `places` (directories), and `…/NAME` for every other absolute path of two steps."""
    for place in sorted(map(str, places), key=len, reverse=True):
        if place.count("/") > 1:
            text = text.replace(place, "…")
    return _PATH.sub(_shortened, text)


def _shortened(match: re.Match[str]) -> str:
    quote = match["quote"] or ""
    return f"{quote}…/{match['quoted'] if quote else match['last']}{quote}"
