"""RFC 3339 text to time: exactly for one value, vectorised for a column. Used by arbiter, columns and formats.

`instant_us` and `day` are the rule; `instants` and `days` are their fast halves: what they accept the rule accepts,
with the same value, and what they do not take they mark, for the arbiter to judge.
"""

from __future__ import annotations

import re
from datetime import date

import numpy as np
import pyarrow as pa

from eagleray.cluster.events.text_layout import ByteTable, Layout

INSTANT = pa.timestamp("us", "UTC")
DAY_US = 86_400_000_000
MIN_US = -62_135_596_800_000_000  # 0001-01-01T00:00:00Z: no earlier instant fits a Python datetime
MAX_US = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_TEXT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MICROS = 6  # digits of a fraction that are kept


def day(text: str) -> int | None:
    """Days since the epoch of `YYYY-MM-DD`; None where it is no such date (of the years 1 to 9999)."""
    if not _DAY.fullmatch(text):
        return None
    try:
        return date.fromisoformat(text).toordinal() - _EPOCH_DAY
    except ValueError:
        return None


def instant_us(text: str) -> int | None:
    """Microseconds since the epoch of an RFC 3339 date-time, further digits cut; None where it is none.

    A leap second (23:59:60 UTC) is the second after it, as in POSIX time. Instants outside years 1 to 9999 are refused.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    days, hour, minute, second = day(match[1]), int(match[2]), int(match[3]), int(match[4])
    offset = (int(match[7]) * 60 + int(match[8])) if match[6] else 0
    if days is None or not _on_the_clock(hour, minute, second, offset, int(match[8] or 0)):
        return None
    minutes = hour * 60 + minute - (-offset if match[6] == "-" else offset)
    if second == 60 and minutes % 1440 != 1439:
        return None
    micros = int((match[5] or "0")[:_MICROS].ljust(_MICROS, "0"))
    time_us = days * DAY_US + (minutes * 60 + second) * 1_000_000 + micros
    return time_us if MIN_US <= time_us <= MAX_US else None


def _on_the_clock(hour: int, minute: int, second: int, offset: int, offset_minute: int) -> bool:
    return hour < 24 and minute < 60 and second <= 60 and offset < 1440 and offset_minute < 60


def instant_text(time_us: int) -> str:
    """The text of an instant that both halves read back as `time_us`."""
    days, micros = divmod(time_us, DAY_US)
    seconds, micros = divmod(micros, 1_000_000)
    clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{micros:06d}"
    return f"{date.fromordinal(days + _EPOCH_DAY).isoformat()}T{clock}Z"


def instants(texts: pa.StringArray) -> tuple[pa.Array, np.ndarray | None]:
    """A column of RFC 3339 text as timestamp[us, UTC], nulls kept, and which rows it could not take (None: none)."""
    cast = _cast_uniform(texts)
    if cast is not None:
        return cast, None
    table = ByteTable(texts)
    values = np.zeros(len(texts), np.int64)
    bad = table.present.copy()
    for rows, characters in table.by_length():
        taken, times = _instants_of(characters)
        values[rows[taken]] = times
        bad[rows[taken]] = False
    absent = bad | ~table.present
    array = pa.array(values, mask=absent if absent.any() else None).cast(INSTANT)
    return array, bad if bad.any() else None


def _cast_uniform(texts: pa.StringArray) -> pa.Array | None:
    """The common case, in one step: every text of one length and layout, to the second or up to the microsecond."""
    characters = ByteTable(texts).uniform()
    if characters is None:
        return None
    for layout in _layouts(characters.shape[1]):
        if layout.microseconds and layout.matches_all(characters):
            try:
                cast = texts.cast(INSTANT)
            except pa.ArrowInvalid:
                return None
            return cast if _within(cast.view(pa.int64()).to_numpy()).all() else None
    return None


class _Instant(Layout):
    """How an RFC 3339 text of one length is laid out."""

    def __init__(self, fraction: int, zone: str) -> None:
        super().__init__("dddd-dd-ddTdd:dd:dd" + ("." + "d" * fraction if fraction else "") + zone)
        self.microseconds = fraction <= _MICROS
        self.zone = len(zone)


_LAYOUTS: dict[int, tuple[_Instant, ...]] = {}
_FRACTION_MAX = 30  # digits; longer ones go to the arbiter


def _layouts(length: int) -> tuple[_Instant, ...]:
    if length not in _LAYOUTS:
        found = []
        for zone in ("Z", "sdd:dd"):
            fraction = length - 19 - len(zone)
            if fraction == 0 or 2 <= fraction <= _FRACTION_MAX + 1:
                found.append(_Instant(max(fraction - 1, 0), zone))
        _LAYOUTS[length] = tuple(found)
    return _LAYOUTS[length]


def _instants_of(characters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `characters` (n, length) that are instants, and their microseconds."""
    taken, times = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for layout in _layouts(characters.shape[1]):
        rows = np.flatnonzero(layout.matches(characters))
        if rows.size:
            sound, values = _cast_rows(_cut(characters[rows], layout))
            taken.append(rows[sound])
            times.append(values)
    return np.concatenate(taken), np.concatenate(times)


def _cut(characters: np.ndarray, layout: _Instant) -> np.ndarray:
    """Digits beyond the microsecond, which Arrow would refuse, are left out."""
    if layout.microseconds:
        return characters
    return np.concatenate([characters[:, : 20 + _MICROS], characters[:, -layout.zone :]], axis=1)


def _cast_rows(characters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    texts = _texts(characters)
    try:
        values = texts.cast(INSTANT).view(pa.int64()).to_numpy()
        sound = _within(values)
        return sound, values[sound]
    except pa.ArrowInvalid:  # some row is no date, such as February 30: one by one
        each = [instant_us(text) for text in texts.to_pylist()]
        sound = np.array([value is not None for value in each])
        return sound, np.array([value for value in each if value is not None], np.int64)


def _within(times_us: np.ndarray) -> np.ndarray:
    return (times_us >= MIN_US) & (times_us <= MAX_US)


def _texts(characters: np.ndarray) -> pa.StringArray:
    count, length = characters.shape
    offsets = np.arange(0, (count + 1) * length, length, dtype=np.int32)
    data = np.ascontiguousarray(characters).tobytes()
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(data))


_DAY_LAYOUT = Layout("dddd-dd-dd")


def days(texts: pa.StringArray) -> tuple[pa.Array, np.ndarray | None]:
    """A column of `YYYY-MM-DD` as date32 (null stays null), and which rows it could not take (None: none)."""
    table = ByteTable(texts)
    characters = table.uniform()
    if characters is not None and characters.shape[1] == 10 and _DAY_LAYOUT.matches_all(characters):
        try:
            cast = texts.cast(pa.date32())
            if (cast.view(pa.int32()).to_numpy() >= MIN_US // DAY_US).all():
                return cast, None
        except pa.ArrowInvalid:
            pass
    each = [None if text is None else day(text) for text in texts.to_pylist()]
    bad = table.present & np.array([value is None for value in each], bool)
    return pa.array(each, pa.int32()).view(pa.date32()), bad if bad.any() else None
