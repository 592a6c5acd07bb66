"""What was meant by a name that is not there: the end of a message. One rule for streams, tables, jobs, settings."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

NAMED_MAX, NEAR_MAX = 30, 3  # in a message
_NEAR = 0.5  # of difflib's ratio: `evnets` is near `events`, `user` is not near `page`


def instead(name: str, names: Iterable[str], nothing: str = "none") -> str:
    """`; did you mean a or b?`, or `; there are …` where no name is near; `nothing` where there is none at all.

    A table (`namespace.table`) is meant first where another namespace has one of that name.
    """
    there = sorted(set(names))
    by_lower = {known.lower(): known for known in there}
    last = name.rpartition(".")[2].lower()
    same = [known for known in there if known.lower().endswith(f".{last}")]
    near = same or [by_lower[one] for one in get_close_matches(name.lower(), by_lower, n=NEAR_MAX, cutoff=_NEAR)]
    if near:
        return f"; did you mean {' or '.join(near[:NEAR_MAX])}?"
    more = f" and {len(there) - NAMED_MAX} more" if len(there) > NAMED_MAX else ""
    return f"; there are {', '.join(there[:NAMED_MAX]) or nothing}{more}"
