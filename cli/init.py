"""`eagleray init`: writes a project that runs at once. The files are those beside this module, in `project/`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from eagleray.cluster.errors import ConfigError

TEMPLATE = Path(__file__).parent / "project"


def write_project(template: Path, directory: Path) -> list[Path]:
    """Copy the files of `template` into `directory`; raises ConfigError, writing nothing, if one is there already."""
    # `gitignore` has no dot in the template: there it would hide files of this repository.
    targets = {file: directory / file.name.replace("gitignore", ".gitignore") for file in sorted(template.iterdir())}
    if taken := [target.name for target in targets.values() if target.exists()]:
        raise ConfigError(str(directory), f"already has {', '.join(taken)}; nothing was written")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file, target in targets.items():
            shutil.copyfile(file, target)
    except OSError as error:
        raise ConfigError(str(directory), f"cannot be written: {error}") from error
    return list(targets.values())


def init(directory: Annotated[Path, typer.Argument(help="Where; made if it does not exist.")]) -> None:
    """Make a project that runs at once, with an API key of its own; overwrites nothing."""
    from eagleray.cluster.clock import SystemClock
    from eagleray.cluster.config import load_config
    from eagleray.cluster.owner_key import ensure_owner_key, owner_key_file

    for file in write_project(TEMPLATE, directory):
        print(f"wrote {file}")
    config = load_config(directory / "eagleray.yaml")
    if ensure_owner_key(config, SystemClock()):
        print(f"wrote {owner_key_file(config.data_dir)}")
    print(f"\nNext: cd {directory} && eagleray up\nthen: eagleray send events.ndjson --stream plays")
