"""versitygw: an S3 server over a directory, with signatures, conditional writes and multipart uploads."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from tests.servers.installed import go_program
from tests.servers.process import LOOPBACK, Server, free_port, running

VERSION = "v1.8.0"
KEY, SECRET = "lab", "labsecret"
BUCKET = "lake"


class S3Server(Server):
    """The bucket BUCKET is there; `keys` are those of its owner."""

    keys: Mapping[str, str] = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    def __init__(self, directory: Path, host: str = LOOPBACK) -> None:
        """Objects are files below `directory`/objects."""
        self.objects = directory / "objects"
        (self.objects / BUCKET).mkdir(parents=True, exist_ok=True)
        (directory / "iam").mkdir(exist_ok=True)
        program = go_program("versitygw", VERSION, "github.com/versity/versitygw/cmd/versitygw")
        port = free_port(host)
        self._program = program
        command = [
            str(program),
            "--port",
            f"{host}:{port}",
            "--iam-dir",
            str(directory / "iam"),
            "--iam-cache-disable",
        ]
        environ = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
        super().__init__([*command, "posix", str(self.objects)], port, directory / "s3.log", environ, host)

    def add_user(self, key: str, secret: str) -> None:
        """Keys of another user, who may do everything."""
        self._admin("create-user", "--access", key, "--secret", secret, "--role", "admin")

    def remove_user(self, key: str) -> None:
        """Revoke these keys."""
        self._admin("delete-user", "--access", key)

    def _admin(self, *words: str) -> None:
        command = [str(self._program), "admin", "--access", KEY, "--secret", SECRET, "--endpoint-url", self.url, *words]
        subprocess.run(command, check=True, capture_output=True)


def s3_server(directory: Path, host: str = LOOPBACK) -> AbstractContextManager[S3Server]:
    """A running server; ended whatever happens inside."""
    directory.mkdir(parents=True, exist_ok=True)
    return running(S3Server(directory, host))
