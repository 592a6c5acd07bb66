"""The settings of a session: what SHOW tells and SET changes. Few of them change anything, and only these may be set.

Used by `session`, and by the catalog's `pg_settings`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from eagleray.cluster.errors import QueryError
from eagleray.sql.tokens import significant

VERSION = "15.0"  # of Postgres, whose catalog and protocol these are
DEFAULTS: Mapping[str, str] = {
    "application_name": "",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "client_min_messages": "notice",
    "datestyle": "ISO, MDY",
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
    "extra_float_digits": "1",
    "idle_in_transaction_session_timeout": "0",
    "integer_datetimes": "on",
    "intervalstyle": "postgres",
    "jit": "off",
    "lc_collate": "C.UTF-8",
    "lc_ctype": "C.UTF-8",
    "lock_timeout": "0",
    "max_identifier_length": "63",
    "max_index_keys": "32",
    "row_security": "on",
    "search_path": '"$user", public',
    "server_encoding": "UTF8",
    "server_version": VERSION,
    "server_version_num": "150000",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "timezone": "UTC",
    "transaction_isolation": "repeatable read",
    "transaction_read_only": "on",
}
REPORTED = ("server_version", "server_encoding", "client_encoding", "application_name", "DateStyle", "IntervalStyle",
            "TimeZone", "integer_datetimes", "standard_conforming_strings", "default_transaction_read_only",
            "is_superuser", "session_authorization")  # fmt: skip
"""Those that a client is told, at the login and when they change."""

_FREE = frozenset({"application_name", "search_path", "statement_timeout"})
_UTC = frozenset({"utc", "etc/utc", "gmt", "default", "local", "z", "0", "+00", "+00:00", "00:00"})
_ALLOWED: Mapping[str, frozenset[str]] = {
    "bytea_output": frozenset({"hex"}),
    "client_encoding": frozenset({"utf8", "utf-8", "unicode", "default"}),
    "datestyle": frozenset({"iso", "iso, mdy", "iso,mdy", "iso, ymd", "iso, dmy", "default"}),
    "intervalstyle": frozenset({"postgres", "default"}),
    "standard_conforming_strings": frozenset({"on", "true", "default"}),
    "timezone": _UTC,
    "default_transaction_read_only": frozenset({"on", "true", "default"}),
    "transaction_read_only": frozenset({"on", "true", "default"}),
    "row_security": frozenset({"on", "off", "default"}),
}
"""Settings that have one value here: setting it does nothing, any other is refused."""

_IGNORED = frozenset(
    "extra_float_digits client_min_messages jit lock_timeout idle_in_transaction_session_timeout synchronize_seqscans"
    " default_transaction_isolation transaction_isolation ssl_renegotiation_limit geqo enable_seqscan work_mem"
    " idle_session_timeout transaction_timeout enable_nestloop".split()
)
"""Settings of Postgres' own engine, which mean nothing here: accepted, for clients set them without being asked."""

_DURATION = re.compile(r"(\d+)\s*(us|ms|s|min|h|d)?")
_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "min": 60_000.0, "h": 3_600_000.0, "d": 86_400_000.0}


class Settings:
    """The settings of one session."""

    def __init__(self, user: str) -> None:
        """The defaults."""
        self._user = user
        self._set: dict[str, str] = {}

    def get(self, name: str) -> str | None:
        """The value of a setting; None: there is none of that name."""
        name = name.lower()
        if name == "session_authorization":
            return self._user
        if name == "is_superuser":
            return "off"
        return self._set.get(name, DEFAULTS.get(name))

    def set(self, name: str, value: str) -> None:
        """Set it; raises QueryError for one that does not exist, or cannot have this value."""
        name = name.lower()
        if name in _ALLOWED and value.strip().lower() not in _ALLOWED[name]:
            known = DEFAULTS[name]
            raise QueryError(f"{name} is always {known} here, and cannot be {value!r}", "0A000")
        if name == "statement_timeout":
            value = f"{milliseconds(value):g}"
        if name in _FREE:
            if value.lower() == "default":
                self.reset(name)
            else:
                self._set[name] = value
        elif name not in _ALLOWED and name not in _IGNORED:
            raise QueryError(f'unrecognized configuration parameter "{name}"', "42704")

    def reset(self, name: str = "") -> None:
        """Back to the default; all of them without a name."""
        for one in [name.lower()] if name else list(self._set):
            self._set.pop(one, None)

    def all(self) -> dict[str, str]:
        """Every setting with its value."""
        return {**DEFAULTS, **self._set}

    @property
    def search_path(self) -> tuple[str, ...]:
        """The schemas that unqualified names are looked for in."""
        path = self.get("search_path") or ""
        named = [token.name or token.value or "" for token in significant(path) if token.text != ","]
        return tuple(name for name in named if name and name != "$user")

    @property
    def timeout_s(self) -> float | None:
        """What `statement_timeout` says; None: nothing."""
        found = float(self.get("statement_timeout") or 0)
        return found / 1000 if found else None


def milliseconds(text: str) -> float:
    """A duration as Postgres writes it (`5s`, `100ms`, a number of milliseconds); raises QueryError."""
    if text.lower() == "default":
        return 0.0
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise QueryError(f"{text!r} is no duration; expected such as 5s, 100ms or a number of milliseconds", "22023")
    return int(match[1]) * _UNITS_MS[match[2] or "ms"]
