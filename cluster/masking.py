"""Takes declared secrets out of text that people read: messages, logs of jobs, the history.

What is found, of a secret of LEAST_CHARS characters or more:

1. the secret as it is, and each of its lines where it has several (keys in PEM);
2. as it stands in a URL, in a string of Python, JSON, SQL, a shell or HTML, also where that was quoted once more;
3. as hexadecimal digits, and as base64 (plain or for URLs), also amid other bytes, such as `Basic` of a user and it;
4. 1 and base64 also where lines were broken within it.

What is not: parts of a secret, other encodings, encryption, and what a program prints one character at a time.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO
from urllib.parse import quote, quote_plus

LEAST_CHARS = 4  # shorter ones would take half of every sentence along
MASK = "***"
_LEAST_LINE = 8  # of a line, or an encoded form: below, words would be taken for it
_BLOCK_BYTES = 1 << 22  # of a file at a time
_HELD_MAX = 1 << 16  # characters of a line that has not ended
_BREAK = r"""(?:["'\\]?[ \t]{0,40}\r?\n[ \t]{0,40}[bru]?["']?)?"""  # as pprint, base64 and e-mail break lines


class Mask:
    """Replaces every secret in a text, in all forms that this module names."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Secrets of fewer than LEAST_CHARS characters are left alone."""
        known = [one for one in secrets if len(one) >= LEAST_CHARS]
        self._forms = sorted({form for one in known for form in _forms(one)}, key=len, reverse=True)
        broken = {form for one in known for form in (one, repr(one)[1:-1], *_base64(one)) if len(form) >= _LEAST_LINE}
        ordered = sorted(broken, key=len, reverse=True)
        self._broken = re.compile("|".join(_BREAK.join(map(re.escape, form)) for form in ordered)) if ordered else None

    def __call__(self, text: str) -> str:
        """`text` without them."""
        for form in self._forms:
            text = text.replace(form, MASK)
        return self._broken.sub(MASK, text) if self._broken and "\n" in text else text

    def file(self, path: Path, start: int = 0) -> None:
        """Mask what stands in a file from byte `start` on; nothing may be written to it meanwhile but at its end."""
        changed = False
        with path.open("r+b") as file, tempfile.SpooledTemporaryFile(_BLOCK_BYTES, dir=str(path.parent)) as out:
            file.seek(start)
            while block := file.read(_BLOCK_BYTES) + file.readline(_BLOCK_BYTES):
                text = block.decode("utf-8", errors="surrogateescape")
                masked = self(text)
                changed |= masked != text
                out.write(masked.encode("utf-8", errors="surrogateescape"))
            if changed:
                out.seek(0)
                file.seek(start)
                shutil.copyfileobj(out, file)
                file.truncate()


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield from (line for line in secret.split("\n") if len(line) >= _LEAST_LINE)
    yield from _base64(secret)
    digits = secret.encode(errors="surrogatepass").hex()
    yield from (digits, digits.upper())
    for once in _quoted(secret):
        yield once
        yield from _quoted(once)


def _quoted(text: str) -> Iterator[str]:
    data = text.encode(errors="surrogatepass")
    for url in (quote(data), quote(data, safe=""), quote_plus(data)):
        yield from (url, re.sub("%[0-9A-F]{2}", lambda sign: sign[0].lower(), url))
    yield from (repr(text)[1:-1], repr(f"'{text}")[2:-1], repr(f"""'"{text}""")[4:-1], repr(data)[2:-1])
    yield from (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    yield from (text.replace("'", "''"), text.replace("'", "'\"'\"'"), html.escape(text))


def _base64(secret: str) -> Iterator[str]:
    """The characters that say nothing but the secret, wherever it stands among other bytes."""
    data = secret.encode(errors="surrogatepass")
    for before, foreign in ((0, 0), (1, 2), (2, 3)):
        shifted = bytes(before) + data
        text = base64.b64encode(shifted).decode().rstrip("=")
        own = text[foreign : len(text) - (len(shifted) % 3 > 0)]
        if len(own) >= _LEAST_LINE - 2:
            yield from (own, own.translate(_FOR_URLS))


_FOR_URLS = str.maketrans("+/", "-_")


class MaskedText(io.TextIOBase):
    """A text file that masks what is written to it, line by line: pieces of a line are put together first."""

    def __init__(self, file: TextIO, mask: Mask) -> None:
        """`file` stays open."""
        self._file = file
        self._mask = mask
        self._held = ""  # Invariant: no newline in it, unless a write is under way.
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Write the lines that `text` completes, masked; `flush` writes what is left."""
        with self._lock:
            self._held += text
            end = self._held.rfind("\n") + 1 or (len(self._held) if len(self._held) > _HELD_MAX else 0)
            whole, self._held = self._held[:end], self._held[end:]
            if whole:
                self._file.write(self._mask(whole))
        return len(text)

    def writable(self) -> bool:
        """It is."""
        return True

    def flush(self) -> None:
        """Write what was held back, and flush the file."""
        with self._lock:
            held, self._held = self._held, ""
            if held:
                self._file.write(self._mask(held))
            self._file.flush()

    def fileno(self) -> int:
        """The file's own, which masks nothing."""
        return self._file.fileno()
