"""An image without a container engine: a directory becomes a docker-archive of one layer, which `ctr` imports.

archive.py ROOT REFERENCE TARGET.tar [ENTRYPOINT]
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

SECTION = 4 << 20
EXCLUDED = ("./proc/*", "./sys/*", "./dev/*", "./.whole")
ENVIRONMENT = (
    "PATH=/opt/eagleray/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED=1",
    "RAY_USAGE_STATS_ENABLED=0",
)


def archive(root: Path, reference: str, target: Path, entrypoint: str | None = None) -> None:
    """Write `root` as the image `reference`, with the settings of deploy/Dockerfile."""
    layer = target.with_suffix(".layer")
    excluded = [f"--exclude={pattern}" for pattern in EXCLUDED]
    subprocess.run(
        ["tar", "--numeric-owner", "--one-file-system", *excluded, "-C", str(root), "-cf", str(layer), "."], check=True
    )
    digest = hashlib.sha256()
    with layer.open("rb") as content:
        while section := content.read(SECTION):
            digest.update(section)
    settings: dict[str, object] = {"Env": list(ENVIRONMENT), "WorkingDir": "/", "User": "1000:1000"}
    if entrypoint:
        settings["Entrypoint"] = [entrypoint]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest.hexdigest()}"]},
            "history": [{"created_by": "tests/kubernetes/archive.py"}],
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [reference], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(target, "w") as out:
        for member, content_ in ((name, config), ("manifest.json", manifest)):
            about = tarfile.TarInfo(member)
            about.size = len(content_)
            out.addfile(about, io.BytesIO(content_))
        out.add(layer, "layer.tar")
    layer.unlink()


if __name__ == "__main__":
    archive(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), *sys.argv[4:5])
