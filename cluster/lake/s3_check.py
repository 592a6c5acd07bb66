"""What `eagleray doctor` looks at in the bucket of an `s3://` warehouse, and what it mends there.

Some stores lack some of these calls: then the finding says so, and is no fault.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

from eagleray.cluster.clock import Clock
from eagleray.cluster.config import Config
from eagleray.cluster.lake.s3_store import S3Store, properties

SKEW_MAX_S = 60.0  # stores refuse requests that are 15 minutes off
ABORT_DAYS = 3  # longer than any upload
RULE = "eagleray-abort-incomplete-uploads"

_PUBLIC = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


class Seen(NamedTuple):
    """One thing that was looked at."""

    what: str
    verdict: Literal["ok", "warn", "bad"]
    found: str
    advice: str = ""


def look(config: Config, clock: Clock, fix: bool = False) -> Iterator[Seen]:
    """Bucket, rights, clock, public access, lifecycle; with `fix` a missing rule of the lifecycle is made."""
    store = S3Store(properties(config))
    try:
        answer = store.call("head_bucket", f"s3://{_bucket(config)}")
    except OSError as error:
        yield Seen("bucket", "bad", str(error), "make the bucket, or correct lake.warehouse, lake.s3 and the keys")
        return
    yield Seen("bucket", "ok", f"s3://{_bucket(config)} answers")
    yield _clock(answer, clock)
    yield _rights(config, store)
    yield _public(config, store)
    yield _lifecycle(config, store, fix)


def _bucket(config: Config) -> str:
    return config.warehouse.removeprefix("s3://").partition("/")[0]


def _clock(answer: Any, clock: Clock) -> Seen:
    said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if said is None:
        return Seen("bucket clock", "ok", "the store does not say what time it is")
    off_s = clock.now_us() / 1e6 - parsedate_to_datetime(said).timestamp()
    found = f"this machine is {off_s:+.0f} s off the store's"
    if abs(off_s) > SKEW_MAX_S:
        return Seen("bucket clock", "bad", found, "set the clock (NTP): requests that are 15 minutes off are refused")
    return Seen("bucket clock", "ok", found)


def _rights(config: Config, store: S3Store) -> Seen:
    place = f"{config.warehouse.rstrip('/')}/eagleray-doctor-{os.urandom(8).hex()}"
    done = "written"
    try:
        store.put(place, b"probe", overwrite=False)
        done = "read"
        store.get(place)
        done = "listed"
        next(iter(store.listed(place)))
        done = "deleted"
        store.delete(place)
    except OSError as error:
        with suppress(OSError):
            store.delete(place)
        rights = "s3:PutObject, GetObject, DeleteObject, ListBucket, AbortMultipartUpload"
        return Seen("bucket rights", "bad", f"a file cannot be {done}: {error}", f"the keys need {rights}")
    return Seen("bucket rights", "ok", "files can be written, read, listed and deleted")


def _public(config: Config, store: S3Store) -> Seen:
    try:
        found = store.call("get_public_access_block", f"s3://{_bucket(config)}")["PublicAccessBlockConfiguration"]
    except PermissionError as error:
        return Seen("bucket public", "warn", str(error), "allow s3:GetBucketPublicAccessBlock, or look yourself")
    except OSError as error:
        if "NoSuchPublicAccessBlock" in str(error):
            return _open(list(_PUBLIC))
        return Seen("bucket public", "ok", "the store does not know public access blocks")
    return _open([name for name in _PUBLIC if not found.get(name)])


def _open(missing: list[str]) -> Seen:
    if missing:
        return Seen("bucket public", "warn", f"not blocked: {', '.join(missing)}", "block public access to the bucket")
    return Seen("bucket public", "ok", "public access is blocked")


def _lifecycle(config: Config, store: S3Store, fix: bool) -> Seen:
    bucket = f"s3://{_bucket(config)}"
    try:
        rules = store.call("get_bucket_lifecycle_configuration", bucket)["Rules"]
    except PermissionError as error:
        return Seen("bucket parts", "warn", str(error), "allow s3:GetLifecycleConfiguration, or look yourself")
    except OSError as error:
        if "NoSuchLifecycleConfiguration" not in str(error):
            return Seen("bucket parts", "ok", "the store does not know lifecycles")
        rules = []
    if any("AbortIncompleteMultipartUpload" in rule and rule["Status"] == "Enabled" for rule in rules):
        return Seen("bucket parts", "ok", "parts of uploads that broke off are removed by the bucket")
    if not fix:
        advice = f"`eagleray doctor --fix` adds a rule that removes them after {ABORT_DAYS} days"
        return Seen("bucket parts", "warn", "parts of uploads that broke off stay, and cost", advice)
    rule = {
        "ID": RULE,
        "Status": "Enabled",
        "Filter": {"Prefix": config.warehouse.removeprefix("s3://").partition("/")[2]},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_DAYS},
    }
    store.call("put_bucket_lifecycle_configuration", bucket, LifecycleConfiguration={"Rules": [*rules, rule]})
    return Seen("bucket parts", "ok", f"mended: parts of uploads that broke off are removed after {ABORT_DAYS} days")
