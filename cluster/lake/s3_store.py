"""The objects of an S3-compatible store. Used by `s3_file_io` and `s3_check`; the only module that imports boto3.

Every request is bounded: time-outs, a number of attempts, pauses that double with jitter. Keys come by boto3's usual
chain, and are looked up anew after the store refused them, so that renewed ones count without a restart.

Promise: `put` and `S3Upload.close` return when the store has confirmed the whole object, by its checksum.
Errors are OSErrors that say what to do: FileNotFoundError, PermissionError, FileExistsError, or plain OSError.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import boto3
from botocore.config import Config as ClientConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.session import get_session

from eagleray.cluster.backoff import backoff_s
from eagleray.cluster.config import Config

CONNECTIONS_MAX = 32
PARTS_AT_ONCE = 4  # of one upload: bounds its memory to as many parts
BACKOFF_S = 0.1  # before an answer that broke off is asked for again; doubled each time
LISTED = 1000  # keys of one answer

_ADVICE = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or lake.s3.credentials_file"
_REFUSED_KEYS = frozenset(
    ("403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch")
)
_MISSING = frozenset(("404", "NoSuchKey", "NotFound"))
_EXISTS = frozenset(("412", "PreconditionFailed", "409", "ConditionalRequestConflict"))
_UNKNOWN = frozenset(("501", "NotImplemented"))
_BROKEN_OFF = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, ConnectionClosedError)


@dataclass(frozen=True)
class S3Access:
    """Address and keys of a store. Never printed: its representation hides the keys."""

    endpoint: str | None
    region: str
    key: str = field(repr=False)
    secret: str = field(repr=False)
    token: str | None = field(repr=False)
    virtual: bool


@dataclass(frozen=True)
class Listed:
    """An object: its key, its size in bytes, and when it was written."""

    key: str
    bytes: int
    written_us: int


def properties(config: Config) -> dict[str, str]:
    """What `S3Store` needs to know of `lake.s3`, under the names that Iceberg has for it; keys are not among it."""
    s3 = config.lake.s3
    found = {
        "s3.endpoint": s3.endpoint,
        "s3.region": s3.region,
        "s3.force-virtual-addressing": "false" if s3.path_style else "true",
        "s3.connect-timeout": str(s3.connect_timeout_s),
        "s3.request-timeout": str(s3.read_timeout_s),
        "s3.profile-name": s3.profile,
        "s3.server-side-encryption": None if s3.encryption == "none" else s3.encryption,
        "s3.sse-kms-key-id": s3.kms_key,
        "eagleray.s3.credentials-file": s3.credentials_file,
        "eagleray.s3.attempts": str(s3.attempts_max),
        "eagleray.s3.part-bytes": str(s3.part_bytes),
    }
    return {name: value for name, value in found.items() if value is not None}


def parted(location: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`."""
    bucket, _, key = location.partition("://")[2].partition("/")
    return bucket, key


class S3Store:
    """Objects by their location, `s3://bucket/key`. Threads may share one; a process that forks makes its own."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """`settings` as `properties` gives them, and `s3.access-key-id` and its kin where a catalog hands out keys."""
        self._settings = dict(settings)
        self._attempts = int(settings.get("eagleray.s3.attempts", "6"))
        self.part_bytes = int(settings.get("eagleray.s3.part-bytes", str(8 << 20)))
        self._made: Any = None
        self._lock = Lock()
        self._conditional = True  # until the store says that it knows no If-None-Match
        self._pool = ThreadPoolExecutor(CONNECTIONS_MAX // 2, thread_name_prefix="s3")
        self._writing: dict[str, str] = {}
        if encryption := settings.get("s3.server-side-encryption"):
            self._writing["ServerSideEncryption"] = encryption
        if key := settings.get("s3.sse-kms-key-id"):
            self._writing["SSEKMSKeyId"] = key

    def access(self) -> S3Access:
        """How an engine with its own reader reaches the store, with the keys of now; raises PermissionError."""
        signer = self.client()._request_signer
        keys = signer._credentials.get_frozen_credentials() if signer._credentials else None
        if keys is None:
            raise PermissionError(f"no keys for {self._settings.get('s3.endpoint') or 'S3'}: {_ADVICE}")
        virtual = self._settings.get("s3.force-virtual-addressing") == "true"
        region = self.client().meta.region_name
        return S3Access(
            self._settings.get("s3.endpoint"), region, keys.access_key, keys.secret_key, keys.token, virtual
        )

    def client(self) -> Any:
        """boto3's client, made on first use and again after keys were refused; raises PermissionError without keys."""
        with self._lock:
            if self._made is None:
                self._made = self._new_client()
            return self._made

    def _new_client(self) -> Any:
        own = self._settings
        core = get_session()
        if file := own.get("eagleray.s3.credentials-file"):
            core.set_config_variable("credentials_file", file)
        if profile := own.get("s3.profile-name"):
            core.set_config_variable("profile", profile)
        try:
            return boto3.Session(botocore_session=core).client(
                "s3",
                endpoint_url=own.get("s3.endpoint"),
                region_name=own.get("s3.region") or core.get_config_variable("region") or "us-east-1",
                aws_access_key_id=own.get("s3.access-key-id"),
                aws_secret_access_key=own.get("s3.secret-access-key"),
                aws_session_token=own.get("s3.session-token"),
                config=ClientConfig(
                    connect_timeout=float(own.get("s3.connect-timeout", "5")),
                    read_timeout=float(own.get("s3.request-timeout", "10")),
                    retries={"mode": "standard", "total_max_attempts": self._attempts},
                    max_pool_connections=CONNECTIONS_MAX,
                    s3={"addressing_style": "virtual" if own.get("s3.force-virtual-addressing") == "true" else "path"},
                    # Content-MD5 is sent instead, which every S3-compatible server checks.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise OSError(f"lake.s3: {error}") from error

    def call(self, operation: str, location: str, **arguments: Any) -> Any:
        """One request on the object at `location`; raises OSError."""
        bucket, key = parted(location)
        named = {"Key": key} if key else {}
        try:
            return getattr(self.client(), operation)(Bucket=bucket, **named, **arguments)
        except ClientError as error:
            raise self._refused(error, operation, location) from error
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
            self._forget_client()
            raise PermissionError(f"{location}: {error}: {_ADVICE}") from error
        except BotoCoreError as error:
            raise OSError(f"{location}: {error}") from error

    def _refused(self, error: ClientError, operation: str, location: str) -> OSError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        said = error.response.get("Error", {}).get("Message", "")
        if code in _MISSING:
            return FileNotFoundError(f"{location} is not there")
        if code in _EXISTS:
            return FileExistsError(f"{location} is there already")
        if code == "RequestTimeTooSkewed":
            return PermissionError(f"{location}: the store refuses this machine's clock ({said}): set it by NTP")
        if code in _REFUSED_KEYS:
            self._forget_client()
            return PermissionError(f"{location}: {operation} is refused ({code}: {said}): check keys and their rights")
        if code in _UNKNOWN:
            return NotImplementedByStore(f"{location}: the store knows no such request: {said}")
        return OSError(f"{location}: {operation} failed ({code}: {said})")

    def _forget_client(self) -> None:
        with self._lock:
            self._made = None

    def size(self, location: str) -> int:
        """Bytes of the object; raises FileNotFoundError where there is none."""
        return int(self.call("head_object", location)["ContentLength"])

    def looked_at(self, locations: Sequence[str]) -> list[tuple[int, int] | None]:
        """Of each object its bytes and when it was written (microseconds); None where there is none."""
        return list(self._pool.map(self._looked_at, locations))

    def _looked_at(self, location: str) -> tuple[int, int] | None:
        try:
            found = self.call("head_object", location)
        except FileNotFoundError:
            return None
        return int(found["ContentLength"]), round(found["LastModified"].timestamp() * 1_000_000)

    def get(self, location: str, start: int = 0, length: int | None = None) -> bytes:
        """The object, or `length` bytes of it from `start`; an answer that breaks off is asked for again."""
        wanted = {} if length is None else {"Range": f"bytes={start}-{start + length - 1}"}
        for attempt in range(1, self._attempts + 1):
            answer = self.call("get_object", location, **wanted)
            try:
                data: bytes = answer["Body"].read()
                if len(data) == answer["ContentLength"]:
                    break
                cause: Exception = OSError(f"{len(data)} bytes came of {answer['ContentLength']}")
            except _BROKEN_OFF as error:
                cause = error
            if attempt == self._attempts:
                raise OSError(f"{location}: the answer broke off {attempt} times: {cause}") from cause
            time.sleep(backoff_s(BACKOFF_S, attempt))
        if length is not None and len(data) != length:
            raise OSError(f"{location}: {len(data)} bytes came of the {length} from {start}: it is shorter than known")
        return data

    def put(self, location: str, data: bytes, overwrite: bool = True) -> None:
        """Write the object in one request; raises FileExistsError where another is there, unless `overwrite`."""
        arguments = {"Body": data, "ContentMD5": _md5(data), **self._writing}
        if overwrite or not self._conditional:
            if not overwrite and self._there(location):
                raise FileExistsError(f"{location} is there already")
            self.call("put_object", location, **arguments)
            return
        try:
            self.call("put_object", location, IfNoneMatch="*", **arguments)
        except NotImplementedByStore:
            self._conditional = False
            self.put(location, data, overwrite)
        except FileExistsError:
            # An earlier attempt of this very request may have landed, its answer lost.
            if self.get(location) != data:
                raise

    def _there(self, location: str) -> bool:
        try:
            self.size(location)
        except FileNotFoundError:
            return False
        return True

    def exists(self, location: str) -> bool:
        """Whether there is such an object."""
        return self._there(location)

    def delete(self, location: str) -> None:
        """Delete the object; one that is not there is no error, as S3 has it."""
        self.call("delete_object", location)

    def listed(self, prefix: str) -> Iterator[Listed]:
        """Every object whose location begins with `prefix`, `s3://bucket/…`."""
        bucket, start = parted(prefix)
        more: dict[str, str] = {}
        while True:
            page = self.call("list_objects_v2", f"s3://{bucket}", Prefix=start, MaxKeys=LISTED, **more)
            for one in page.get("Contents", ()):
                yield Listed(one["Key"], one["Size"], round(one["LastModified"].timestamp() * 1_000_000))
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def upload(self, location: str, overwrite: bool = True, kept: Callable[[bytes], None] | None = None) -> S3Upload:
        """A stream into a new object; `kept` gets one that went up in one piece."""
        return S3Upload(self, location, overwrite, self._pool, kept)


class NotImplementedByStore(OSError):
    """The store does not know the request."""


class S3Upload:
    """A binary stream into an object, which is there when `close` returns and not before.

    What is larger than a part goes up in parts while it is written; at most PARTS_AT_ONCE of them wait in memory.
    """

    def __init__(
        self,
        store: S3Store,
        location: str,
        overwrite: bool,
        pool: ThreadPoolExecutor,
        kept: Callable[[bytes], None] | None,
    ) -> None:
        """Use `S3Store.upload`."""
        self._kept = kept
        self._store = store
        self._location = location
        self._overwrite = overwrite
        self._pool = pool
        self._waiting = bytearray()
        self._size = 0
        self._id: str | None = None
        self._parts: list[Future[str]] = []  # Invariant: in the order of the object; number n is at n - 1
        self.closed = False
        self.confirmed = False  # the object is there as a whole

    def write(self, data: Any) -> int:
        """Take bytes; raises OSError where a part could not be stored."""
        view = memoryview(data).cast("B")
        self._waiting += view
        self._size += len(view)
        while len(self._waiting) > self._store.part_bytes:  # the last part is never empty
            self._send(self._store.part_bytes)
        return len(view)

    def _send(self, length: int) -> None:
        if self._id is None:
            self._id = self._store.call("create_multipart_upload", self._location, **self._store._writing)["UploadId"]
        part = bytes(self._waiting[:length])
        del self._waiting[:length]
        self._parts.append(self._pool.submit(self._store_part, len(self._parts) + 1, part))
        if len(self._parts) > PARTS_AT_ONCE:
            self._parts[-1 - PARTS_AT_ONCE].result()

    def _store_part(self, number: int, part: bytes) -> str:
        arguments = {"UploadId": self._id, "PartNumber": number, "Body": part, "ContentMD5": _md5(part)}
        return str(self._store.call("upload_part", self._location, **arguments)["ETag"])

    def tell(self) -> int:
        """Bytes so far."""
        return self._size

    def flush(self) -> None:
        """Nothing: an object is there as a whole or not at all."""

    def close(self) -> None:
        """Finish the object; raises OSError where the store does not confirm it, and FileExistsError as `put` does."""
        if self.closed:
            return
        self.closed = True
        if self._id is None:
            data = bytes(self._waiting)
            self._store.put(self._location, data, self._overwrite)
            self.confirmed = True
            if self._kept is not None:
                self._kept(data)
            return
        try:
            self._send(len(self._waiting))
            parts = [{"PartNumber": n, "ETag": part.result()} for n, part in enumerate(self._parts, 1)]
            self._complete(parts)
            self.confirmed = True
        except BaseException:
            self._abort()
            raise

    def _complete(self, parts: list[dict[str, Any]]) -> None:
        arguments: dict[str, Any] = {"UploadId": self._id, "MultipartUpload": {"Parts": parts}}
        try:
            self._store.call("complete_multipart_upload", self._location, **arguments)
        except OSError:
            # The answer may be lost, and the upload then be gone because it is complete.
            with suppress(OSError):
                if self._store.size(self._location) == self._size:
                    return
            raise

    def abandon(self) -> None:
        """Forget what was written: no object comes of it."""
        self.closed = True
        self._abort()

    def _abort(self) -> None:
        for part in self._parts:
            part.cancel()
        if self._id is not None:
            with suppress(OSError):  # the bucket's lifecycle removes what stays (`eagleray doctor`)
                self._store.call("abort_multipart_upload", self._location, UploadId=self._id)

    def __enter__(self) -> S3Upload:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the object, or abandon it where the body failed."""
        if kind is None:
            self.close()
        else:
            self.abandon()


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
