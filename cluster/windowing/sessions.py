"""Sessions: events of a group no more than a gap apart, wherever and in whatever order they came.

A fragment is a stretch of a session that one place has seen: its first and last event's time. A session is a connected
component of fragments of one group, where fragments are connected if no more than `gap` lies between them.

Why timing cannot change the result (confluence). An event at t is late iff the watermark of its own partition has
reached t + gap + lateness; that depends on the partition's log alone. A session with last event L closes when the
watermarks of all partitions have reached L + 2·gap + lateness. An event that comes after that and is not late has
t + gap + lateness > watermark ≥ L + 2·gap + lateness, hence t > L + gap: it is not of this session. So a closed session
is complete, and the closed sessions are the components of all events that were not late, whoever saw them when.

A fragment may look closed at one place while its session goes on through another partition. It is kept until the merge
has said which sessions are open (`open_sessions`). A fragment of a session that is in the table already is harmless:
its component can never reach beyond the session's closing time, and is not written twice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eagleray.cluster.windowing.group_codes import Coded, Keys
from eagleray.cluster.windowing.stable_hash import UInt64, hash64, mix
from eagleray.cluster.windowing.watermark import Int64

RANGE_MAX = 1 << 62


def fragments(groups: Keys, times: Int64, gap_us: int) -> tuple[Keys, Int64, Int64]:
    """Events (n,) of `groups` at `times` as fragments: their keys, and each fragment's first and last time."""
    if len(times) == 0:
        return groups, times, times
    low = int(times.min())
    span = int(times.max()) - low + 1
    if groups.count * span < RANGE_MAX:
        order = np.argsort(groups.codes * span + (times - low))
    else:
        order = np.lexsort((times, groups.codes))
    codes, sorted_times = groups.codes[order], times[order]
    breaks = (codes[1:] != codes[:-1]) | (sorted_times[1:] - sorted_times[:-1] > gap_us)
    starts = np.flatnonzero(np.concatenate(([True], breaks)))
    ends = np.append(starts[1:], len(order)) - 1
    return _keys(order, starts), sorted_times[starts], sorted_times[ends]


def components(groups: Keys, starts: Int64, lasts: Int64, gap_us: int) -> tuple[Keys, Int64, Int64]:
    """Fragments (n,) joined into components: their keys, and each component's first and last time."""
    if len(starts) == 0:
        return groups, starts, lasts
    order = np.lexsort((starts, groups.codes))
    codes, begin = groups.codes[order], starts[order]
    # The latest end so far within the group: ranks make a running maximum that a new group always exceeds.
    distinct, rank = np.unique(lasts[order], return_inverse=True)
    reach = distinct[np.maximum.accumulate(codes * len(distinct) + rank) % len(distinct)]
    breaks = (codes[1:] != codes[:-1]) | (begin[1:] - reach[:-1] > gap_us)
    first = np.flatnonzero(np.concatenate(([True], breaks)))
    final = np.append(first[1:], len(order)) - 1
    return _keys(order, first), begin[first], reach[final]


def _keys(order: Int64, starts: Int64) -> Keys:
    numbered = np.zeros(len(order), np.int64)
    numbered[starts[1:]] = 1
    codes = np.empty(len(order), np.int64)
    codes[order] = np.cumsum(numbered)
    return Keys(codes, len(starts), order[starts])


def group_hashes(groups: list[Coded], length: int) -> UInt64:
    """A hash (n,) of each row's group; groups that share one are kept together, which is safe."""
    hashed = np.zeros(length, np.uint64)
    for found in groups:
        values = np.append(hash64(found.values), np.uint64(1))
        hashed = mix(hashed ^ values[found.codes])
    return hashed


def open_sessions(hashes: UInt64, starts: Int64) -> bytes:
    """Groups with an open session and its start (n,), packed for `still_open`."""
    return np.stack([hashes.view(np.int64), starts]).tobytes()


def still_open(packed: bytes, hashes: UInt64, lasts: Int64) -> npt.NDArray[np.bool_]:
    """Which fragments (n,) may belong to a session that was open when `packed` was made."""
    known = np.frombuffer(packed, np.int64).reshape(2, -1)
    order = np.lexsort(
        (known[1], known[0].view(np.uint64))
    )  # of several sessions of a group, the earliest start counts
    groups, starts = known[0].view(np.uint64)[order], known[1][order]
    if len(groups) == 0:
        return np.zeros(len(hashes), np.bool_)
    at = np.minimum(np.searchsorted(groups, hashes), len(groups) - 1)
    return np.asarray((groups[at] == hashes) & (lasts >= starts[at]))
