"""A platform whose lake is on an S3 server, and whose catalog, history and state are in a Postgres."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

from tests.faults.trial import Trial
from tests.running_platform import RunningPlatform
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import BUCKET, S3Server

PROJECT = Path(__file__).parents[1] / "faults" / "project"


class Backed:
    """A platform and its trial; `s3_url` may be that of a proxy in front of the server, `database` as well."""

    def __init__(
        self,
        directory: Path,
        s3: S3Server,
        postgres: PostgresServer,
        s3_url: str = "",
        database: str = "",
        keys_file: Path | None = None,
    ) -> None:
        """Nothing is started. `database`: an address with {} for the name. `keys_file`: keys come from there."""
        self._s3 = s3
        self._keys_file = keys_file
        self._user = 0
        self.warehouse = f"s3://{BUCKET}/{uuid4().hex}"
        self.database = postgres.new_database()
        uri = database.format(self.database.rpartition("/")[2]) if database else self.database
        own = {
            **(s3.keys if keys_file is None else {"AWS_EC2_METADATA_DISABLED": "true"}),
            "EAGLERAY__LAKE__WAREHOUSE": self.warehouse,
            "EAGLERAY__LAKE__S3__ENDPOINT": s3_url or s3.url,
            "EAGLERAY__LAKE__S3__REGION": "us-east-1",
            "EAGLERAY__LAKE__CATALOG__TYPE": "sql",
            "EAGLERAY__LAKE__CATALOG__URI": uri,
            "EAGLERAY__JOBS__HISTORY": uri,
            "EAGLERAY__STATE__BACKEND": "shared",
        }
        if keys_file is not None:
            own["EAGLERAY__LAKE__S3__CREDENTIALS_FILE"] = str(keys_file)
            self.hand_out()
        self.environ = {**os.environ, **own}
        self.platform = RunningPlatform(directory / "platform", PROJECT, own)
        self.trial = Trial(self.platform, directory / "notes")
        self.trial.catalog = {
            "type": "sql",
            "uri": self.database.replace("postgresql:", "postgresql+psycopg:"),
            "warehouse": self.warehouse,
            "s3.endpoint": s3.url,
            "s3.region": "us-east-1",
            "s3.access-key-id": s3.keys["AWS_ACCESS_KEY_ID"],
            "s3.secret-access-key": s3.keys["AWS_SECRET_ACCESS_KEY"],
        }

    def hand_out(self) -> None:
        """New keys, in the file."""
        assert self._keys_file
        self._user += 1
        key = f"user{self._user}"
        self._s3.add_user(key, f"secret-of-{key}")
        text = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret-of-{key}\n"
        self._keys_file.write_text(text)

    def revoke(self) -> None:
        """End the keys of now."""
        self._s3.remove_user(f"user{self._user}")

    def add_job(self, name: str, text: str) -> None:
        """Declare a SQL job."""
        folder = self.platform.directory / "jobs"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    def run(self, *words: str) -> str:
        """The output of the command line in the project, which must succeed."""
        program = str(Path(sys.executable).parent / "eagleray")
        command = [program, *words, "-c", str(self.platform.directory / "eagleray.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=self.environ)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-3000:])
        return done.stdout
