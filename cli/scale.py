"""`eagleray scale`: sets the size of a worker pool of the running platform."""

from __future__ import annotations

from typing import Annotated

import typer

from eagleray.cli.options import DEFAULT_CONFIG, Ca, Cert, ConfigFile, Key, Url
from eagleray.cluster.client.target import connect
from eagleray.cluster.errors import ConfigError

POOLS = ("validate", "window", "writer")


def scale(
    pool: Annotated[str, typer.Argument(metavar="POOL=N", help="validate, window or writer, and how many workers.")],
    url: Url = None,
    key: Key = None,
    ca: Ca = None,
    cert: Cert = None,
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Set the size of a pool until the next `up`; events in flight lose nothing. Needs a key with scope admin."""
    name, _, number = pool.partition("=")
    if name not in POOLS or not number.isdecimal() or int(number) < 1:
        raise ConfigError(
            "scale", f"expected POOL=N with POOL one of {', '.join(POOLS)} and N at least 1, not {pool!r}"
        )
    with connect(url, key, config_file, ca, cert) as client:
        answer = client.post(f"/v1/admin/pools/{name}", {"size": int(number)})
    print(f"{name}: {answer.get('size', number)} workers")
