"""Takes declared secrets out of text that people read: messages, logs of jobs, the history."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TextIO
from urllib.parse import quote

LEAST_CHARS = 4  # shorter ones would take half of every sentence along
MASK = "***"


class Mask:
    """Replaces every secret in a text, as it is and as it stands in a URL or a Python string."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Secrets of fewer than LEAST_CHARS characters are left alone."""
        forms = {form for one in secrets for form in (one, quote(one, safe=""), repr(one)[1:-1])}
        self._forms = sorted((form for form in forms if len(form) >= LEAST_CHARS), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """`text` without them."""
        for form in self._forms:
            text = text.replace(form, MASK)
        return text


class MaskedText(io.TextIOBase):
    """A text file that masks what is written to it; a secret that comes in two pieces is not found."""

    def __init__(self, file: TextIO, mask: Mask) -> None:
        """`file` stays open."""
        self._file = file
        self._mask = mask

    def write(self, text: str) -> int:
        """Write `text`, masked."""
        self._file.write(self._mask(text))
        return len(text)

    def writable(self) -> bool:
        """It is."""
        return True

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def fileno(self) -> int:
        """The file's own, which masks nothing."""
        return self._file.fileno()
