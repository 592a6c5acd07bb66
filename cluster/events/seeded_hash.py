"""Seeded hashes of deduplication ids and partition keys: xxh3, with a seed that each project draws once.

The seed keeps a sender from choosing ids that collide; it lives as long as the log, so that the same id always has the
same hash, and the same key the same partition. It is a fact of the project's state: on every node the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import closing
from itertools import repeat

import numpy as np
from xxhash import xxh3_64_digest, xxh3_128_digest

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.state.backends import open_state

DIGEST_BYTES = 16
SEED_FILE = "hash.seed"  # in data_dir, or a fact of shared state


def hash_seed(config: Config, expected: str = "") -> int:
    """The project's seed, drawn and made durable on first use; raises ConfigError where it is no seed, OSError.

    Raises ConfigError where it is gone or another than that of the fingerprint `expected`, by default `config.seed`:
    with another one no id is recognised, and a key gets another partition. Shared state takes over the seed of this
    data directory where it has none: what is stored already stays known.
    """
    if (expected := expected or config.seed) and (problem := seed_problem(config, expected)):
        raise ConfigError(seed_place(config), f"{problem}; {RESTORE_SEED}")
    with closing(open_state(config)) as state:
        text = state.settle(SEED_FILE, lambda: _local(config) or f"{secrets.randbits(64):016x}")
    return _number(config, text)


def seed_fingerprint(config: Config) -> str:
    """What tells the project's seed from another one, and says nothing of it; "" where none was drawn yet."""
    with closing(open_state(config)) as state:
        text = state.fact(SEED_FILE) or _local(config)
    return xxh3_128_digest(b"which seed is it", _number(config, text)).hex() if text is not None else ""


def seed_problem(config: Config, expected: str) -> str | None:
    """What is wrong with the seed, whose fingerprint should be `expected`. Raises ConfigError where it is no seed."""
    found = seed_fingerprint(config)
    if found == expected:
        return None
    return "is not the one that its ids are hashed with" if found else "is gone, with which its ids are hashed"


RESTORE_SEED = "restore it from a backup, or stop the platform and run `eagleray recover`, which takes another"


def seed_place(config: Config) -> str:
    """Where the seed is, for messages."""
    shared = config.state.backend == "shared"
    return f"{SEED_FILE} in the state's database" if shared else str(config.data_dir / SEED_FILE)


def _local(config: Config) -> str | None:
    file = config.data_dir / SEED_FILE
    return file.read_text(encoding="ascii", errors="replace").strip() if file.exists() else None


def _number(config: Config, text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        problem = "expected a 64-bit seed in hexadecimal; restore it from a backup"
        raise ConfigError(seed_place(config), problem) from None


def digests(texts: Sequence[bytes], seed: int) -> list[bytes]:
    """The 16-byte hash of each text."""
    return list(map(xxh3_128_digest, texts, repeat(seed)))


def hashes(texts: Sequence[bytes], seed: int) -> np.ndarray:
    """The 64-bit hash of each text: (n,) uint64."""
    joined = b"".join(map(xxh3_64_digest, texts, repeat(seed)))
    return np.frombuffer(joined, ">u8").astype(np.uint64)


def of_digests(joined: bytes) -> np.ndarray:
    """A 64-bit hash from each of the joined 16-byte digests: (n,) uint64."""
    return np.frombuffer(joined, ">u8")[::2].astype(np.uint64)
