"""Options that several sub-commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The project's configuration.")]
Url = Annotated[
    str | None, typer.Option(envvar="EAGLERAY_URL", help="The platform; default: the one that runs this project.")
]
Key = Annotated[
    str | None,
    typer.Option(envvar="EAGLERAY_API_KEY", help="API key; default: the project's data/owner.key.", show_default=False),
]
Ca = Annotated[
    Path | None,
    typer.Option("--ca", envvar="EAGLERAY_CA", help="Authorities (PEM) to trust at https; default: the system's."),
]
Cert = Annotated[
    Path | None,
    typer.Option("--cert", envvar="EAGLERAY_CERT", help="Client certificate to show, with its key (one PEM file)."),
]
DEFAULT_CONFIG = Path("eagleray.yaml")
InsecureRay = Annotated[
    bool,
    typer.Option("--insecure-ray", help="Join a Ray cluster that asks for no token; whoever reaches it runs code."),
]
