"""Seeded hashes of deduplication ids and partition keys: xxh3, with a seed that each data directory draws once.

The seed keeps a sender from choosing ids that collide; it lives as long as the log, so that the same id always has the
same hash, and the same key the same partition.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_digest, xxh3_128_digest

from eagleray.cluster.durable import sync_directory
from eagleray.cluster.errors import ConfigError

DIGEST_BYTES = 16
SEED_FILE = "hash.seed"


def hash_seed(data_dir: Path) -> int:
    """The directory's seed, drawn and made durable on first use; raises ConfigError where the file is no seed."""
    file = data_dir / SEED_FILE
    if not file.exists():
        _draw(data_dir, file)
    try:
        return int(file.read_text(encoding="ascii").strip(), 16)
    except ValueError:
        raise ConfigError(str(file), "expected a 64-bit seed in hexadecimal; restore it from a backup") from None


def _draw(data_dir: Path, file: Path) -> None:
    data_dir.mkdir(parents=True, exist_ok=True)
    draft = data_dir / f".{SEED_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        with draft.open("x", encoding="ascii") as handle:
            handle.write(f"{secrets.randbits(64):016x}\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.link(draft, file)  # fails if another process was first: then its seed is the one
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
    sync_directory(data_dir)


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
