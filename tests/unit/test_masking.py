"""Declared secrets are found in the forms in which messages, logs and libraries show them."""

from __future__ import annotations

import base64
import html
import io
import json
import pprint
import re
import shlex
import textwrap
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.config import load_config
from eagleray.cluster.errors import ChecksFailed, ConfigError
from eagleray.cluster.masking import MASK, Mask, MaskedText
from eagleray.cluster.sections import first_line
from eagleray.jobs.project.load import load_project, read_project
from eagleray.jobs.run.failure import failure_of, masked
from tests.examples import examples
from tests.jobs_project import sql_job

SECRETS = [
    "hunter2-pass",
    "p@ss/word+&=é'\"\\x %",
    "correct horse battery",
    "tab\tand nul\0",
    "-----KEY\nMIIEvQIBADANBg\n-----END",
]

SIGNS = st.characters(exclude_characters=MASK, exclude_categories=["Cs"])


def raised(secret: str) -> str:
    try:
        raise ValueError({"token": secret}) from RuntimeError(secret)
    except ValueError:
        return traceback.format_exc()


FORMS: Mapping[str, Callable[[str], str]] = {
    "plain": str,
    "url": lambda s: f"https://u:{quote(s, safe='')}@x/",
    "url path": lambda s: f"https://x/{quote(s)}",
    "url lower": lambda s: f"https://x/?t={re.sub('%..', lambda sign: sign[0].lower(), quote(s, safe=''))}",
    "form": lambda s: urlencode({"t": s}) + quote_plus(s),
    "repr": repr,
    "repr of repr": lambda s: repr(repr(s)),
    "bytes": lambda s: repr(s.encode()),
    "exception": raised,
    "within quotes": lambda s: repr(f"x='{s}'") + repr(f'x="{s}"'),
    "json": lambda s: json.dumps({"t": [s]}),
    "json in json": lambda s: json.dumps({"body": json.dumps({"t": s})}),
    "json utf-8": lambda s: json.dumps(s, ensure_ascii=False),
    "sql": lambda s: "SELECT '" + s.replace("'", "''") + "'",
    "shell": lambda s: f"curl -H {shlex.quote(s)}",
    "html": lambda s: f"<p>{html.escape(s)}</p>",
    "hex": lambda s: s.encode().hex() + s.encode().hex().upper(),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64url": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "basic": lambda s: " ".join(base64.b64encode(f"{user}:{s}".encode()).decode() for user in ("a", "ab", "abc")),
    "base64 amid": lambda s: base64.b64encode(f"ab{s}cd".encode()).decode(),
    "mime": lambda s: base64.encodebytes(b"u" * 50 + s.encode()).decode(),
    "pretty": lambda s: pprint.pformat("x " * 12 + s, width=40),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_masked_in_every_form(secret: str, form: str) -> None:
    shown = Mask([secret])(FORMS[form](secret))
    assert MASK in shown
    plain = FORMS[form]("")
    for part in {secret, *secret.split(), base64.b64encode(secret.encode()).decode()[4:-4]}:
        if len(part) > 4 and part not in plain:
            assert part not in shown


def test_a_secret_over_several_lines_is_found() -> None:
    secret = "correct-horse-battery"
    for text in ("\n".join(textwrap.wrap(secret, 5)), "'correct-'\n    'horse-battery'", "correct-horse\\\n-battery"):
        assert Mask([secret])(f"a {text} b") == f"a {MASK} b" if "'" not in text else MASK in Mask([secret])(text)


def test_short_secrets_and_other_words_are_left_alone() -> None:
    assert Mask(["abc", ""])("abc and YWJj, 616263") == "abc and YWJj, 616263"
    text = "the quick brown fox jumps over the lazy dog " + base64.b64encode(b"a quick brown fox").decode()
    assert Mask(["hunter2-pass"])(text) == text


@examples(50)
@given(st.text(SIGNS, min_size=4, max_size=30), st.text(SIGNS, max_size=10), st.text(SIGNS, max_size=10))
def test_no_text_holds_a_secret_afterwards(secret: str, before: str, after: str) -> None:
    shown = Mask([secret])(before + secret + after)
    assert secret not in shown


def test_pieces_of_a_line_are_put_together(tmp_path: Path) -> None:
    raw = io.StringIO()
    file = MaskedText(raw, Mask(["hunter2-pass"]))
    print("a", "hunter2-", end="", file=file)
    print("pass", "b", sep="", file=file)
    assert raw.getvalue() == f"a {MASK}b\n"
    print("no newline", end="", file=file)
    file.flush()
    assert raw.getvalue().endswith("no newline")


def test_lines_of_several_threads_are_whole() -> None:
    raw = io.StringIO()
    file = MaskedText(raw, Mask(["hunter2-pass"]))

    def write() -> None:
        for _ in range(200):
            file.write("hunter2-pass\n")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raw.getvalue() == f"{MASK}\n" * 800


def test_a_file_is_masked_in_place_from_where_it_is_said(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"hunter2-pass\n\xff hunter2-pass\nend")
    Mask(["hunter2-pass"]).file(file, 13)
    assert file.read_bytes() == b"hunter2-pass\n\xff ***\nend"
    Mask(["hunter2-pass"]).file(file)
    assert file.read_bytes() == b"***\n\xff ***\nend"


def test_rows_that_break_a_check_are_masked() -> None:
    error = ChecksFailed("a", "reports.a", [("sql(x = 'hunter2-pass')", 1, [{"x": "hunter2-pass", "n": 1}])])
    found = masked(failure_of(error, sql_job("SELECT 1")), Mask(["hunter2-pass"]))
    assert "hunter2" not in str(found) and found.checks[0].sample == ({"x": MASK, "n": 1},)


def test_what_a_broken_file_raises_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hunter2-pass")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.py").write_text("import os\nraise OSError('no access with ' + os.environ['TOKEN'])\n")
    (tmp_path / "eagleray.yaml").write_text("jobs: {secrets: [TOKEN]}\n")
    config = load_config(tmp_path / "eagleray.yaml", environ={})
    with pytest.raises(ConfigError, match=r"a\.py:2: .*OSError: no access with \*\*\*$"):
        load_project(config)
    assert "hunter2" not in str(read_project(config).broken)


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\f", "\v", "\x1c", " "])
def test_a_secret_ends_at_a_newline_and_at_no_other_sign(tmp_path: Path, sign: str) -> None:
    file = tmp_path / "secret"
    for text in (f"a{sign}b\nmore", f"a{sign}b\r\n", f"\ufeffa{sign}b"):
        file.write_bytes(text.encode())
        assert first_line(file) == f"a{sign}b"
    file.write_bytes(b"")
    assert first_line(file) == ""
