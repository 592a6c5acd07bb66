from __future__ import annotations

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eagleray.cli.keys import app
from eagleray.cluster import api_keys as keys
from eagleray.cluster.api_keys import ApiKey, KeyRing, KeyStore, check_scope
from eagleray.cluster.clock import ManualClock
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.owner_key import owner_key_file, read_owner_key


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "keys.db"


@pytest.fixture
def store(file: Path) -> KeyStore:
    return KeyStore(file, ManualClock(1_000_000))


@pytest.mark.parametrize("left", [b"\xff\xfe\x00", b""])
def test_a_damaged_owners_key_is_none(tmp_path: Path, left: bytes) -> None:
    owner_key_file(tmp_path).write_bytes(left)
    assert read_owner_key(tmp_path) is None


def test_key_is_found_by_its_secret_and_never_stored(file: Path, store: KeyStore) -> None:
    secret = store.create("shop", ["write:ui", "read"], rate=5)
    ring = KeyRing(file)
    assert ring.find(secret) == ApiKey("shop", frozenset({"write:ui", "read"}), 5.0, 1_000_000, None)
    assert ring.find(secret[:-1]) is None and ring.find("") is None and ring.find("é\udcff") is None
    assert secret.startswith("er_") and len(secret) == 46
    assert secret.encode() not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ring.close()


def test_ring_follows_new_revoked_and_replaced_files(
    file: Path, store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "POLL_S", 0.0)
    ring = KeyRing(file)
    assert ring.find("er_any") is None and ring.problem is None
    first = store.create("first", ["read"])
    assert ring.find(first) is not None
    second = store.create("second", ["read"])
    assert ring.find(second) is not None
    store.revoke("first")
    assert ring.find(first) is None and ring.find(second) is not None
    file.unlink()
    assert ring.find(second) is None
    third = store.create("third", ["read"])
    assert ring.find(third) is not None and ring.find(second) is None
    ring.close()


def test_last_known_keys_work_while_the_file_cannot_be_read(
    file: Path, store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "POLL_S", 0.0)
    ring = KeyRing(file)
    secret = store.create("shop", ["read"])
    assert ring.find(secret) is not None
    file.rename(file.with_suffix(".away"))
    file.write_bytes(b"garbage" * 1000)
    assert ring.find(secret) is not None
    assert ring.problem is not None and "keys.db" in ring.problem
    file.with_suffix(".away").rename(file)
    assert ring.find(secret) is not None and ring.problem is None
    ring.close()


def test_name_is_free_again_after_revocation(store: KeyStore) -> None:
    store.create("shop", ["read"])
    with pytest.raises(ValueError, match="exists"):
        store.create("shop", ["read"])
    assert store.revoke("shop") and not store.revoke("shop")
    store.create("shop", ["admin"])
    assert {(key.name, key.revoked_us) for key in store.keys()} == {("shop", 1_000_000), ("shop", None)}


@pytest.mark.parametrize("name", ["", "a b", "-x", "x" * 64, "a\n", "é"])
def test_bad_names_are_refused(store: KeyStore, name: str) -> None:
    with pytest.raises(ValueError, match="not a key's name"):
        store.create(name, ["read"])


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_rates_are_refused(store: KeyStore, rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        store.create("shop", ["read"], rate)


def test_scopes_allow_what_they_name_and_admin_all() -> None:
    def allows(scope: str, asked: str) -> bool:
        return ApiKey("k", frozenset({scope})).allows(asked)

    assert allows("write:ui", "write:ui") and not allows("write:ui", "write:service")
    assert allows("write:*", "write:ui") and not allows("write:*", "read")
    assert not allows("read", "write:ui") and not allows("read", "admin")
    assert all(allows("admin", asked) for asked in ("read", "write:ui", "admin"))


@pytest.mark.parametrize("scope", ["write:nope", "write:", "write", "Read", "", "read admin"])
def test_unknown_scopes_are_refused(scope: str) -> None:
    with pytest.raises(ValueError, match="scope"):
        check_scope(scope, ["ui"])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    config = tmp_path / "eagleray.yaml"
    config.write_text("streams: {ui: {schema: ui.schema.json, time: time}}\n")
    return config


def test_command_prints_the_key_alone_once(project: Path) -> None:
    run = CliRunner().invoke
    made = run(app, ["create", "shop", "--scope", "write:ui", "-s", "read", "--rate", "100", "-c", str(project)])
    assert made.exit_code == 0
    secret = made.stdout.strip()
    assert made.stdout == f"{secret}\n" and secret.startswith("er_")
    listed = run(app, ["list", "-c", str(project)])
    assert listed.exit_code == 0 and secret not in listed.stdout
    assert listed.stdout.splitlines()[2].split()[:3] == ["shop", "read,write:ui", "100/s"]
    assert run(app, ["revoke", "shop", "-c", str(project)]).exit_code == 0
    assert "-" not in run(app, ["list", "-c", str(project)]).stdout.splitlines()[2].split()


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "shop", "--scope", "write:nope"],
        ["create", "shop", "--scope", "owner"],
        ["create", "a b", "--scope", "read"],
        ["create", "shop", "--scope", "read", "--rate", "0"],
        ["revoke", "nobody"],
    ],
)
def test_wrong_usage_is_a_configuration_error(project: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "-c", str(project)])
    assert isinstance(result.exception, ConfigError)


def test_create_needs_a_scope(project: Path) -> None:
    assert CliRunner().invoke(app, ["create", "shop", "-c", str(project)]).exit_code == 2
