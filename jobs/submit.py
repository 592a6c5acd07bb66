"""Runs a script or a project through Ray's Job Submission API, follows its log, and ends as it ends.

The same on a laptop, where a Ray with a job server is started for it and stopped afterwards, and on a remote cluster.
What is shipped is the script's or the project's folder, without data and caches, and Eagleray itself where the cluster
may not have it. Nothing is installed on the way: no package registry is asked.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eagleray.cluster.config import load_config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.installation import PACKAGE
from eagleray.cluster.ray_auth import serves_strangers, use_own_token

EXCLUDED = ["data/", ".git/", ".venv/", "venv/", "__pycache__/", "*.pyc", "node_modules/"]
CONFIG = "eagleray.yaml"
START_S = 90.0  # a Ray that was just started takes some seconds until it takes jobs


def submit(
    target: Path,
    arguments: Sequence[str],
    address: str | None,
    env: Sequence[str],
    wait: bool,
    insecure_ray: bool = False,
) -> int:
    """Run `target` with `arguments` on the cluster at `address`, or here; returns the exit code.

    Raises ConfigError for what cannot be run and for a cluster that lets anybody in, EaglerayError where the job server
    does not answer.
    """
    here = address is None or urlsplit(_url(address)).hostname in ("127.0.0.1", "localhost", "::1")
    python = sys.executable if here else "python"
    folder, entrypoint = entry(target, arguments, python)
    variables = {**_places(folder), **dict(_variable(text) for text in env)}
    if address is None and not wait:
        raise ConfigError("--no-wait", "a Ray of its own ends with the command; expected --address as well")
    runtime: dict[str, Any] = {"working_dir": str(folder), "excludes": EXCLUDED, "env_vars": variables}
    if address is not None:
        _check_door(_url(address), insecure_ray)
        if not here:
            runtime["py_modules"] = [str(PACKAGE)]
        return _run(_url(address), entrypoint, runtime, wait)
    from eagleray.cluster.ray_session import job_server

    with job_server() as url:
        return _run(url, entrypoint, runtime, wait)


def entry(target: Path, arguments: Sequence[str], python: str) -> tuple[Path, str]:
    """What to ship and what to run there; raises ConfigError where `target` is neither a script nor a project."""
    words = list(arguments)
    if target.is_dir():
        if not (target / CONFIG).exists():
            raise ConfigError(str(target), f"a project has an {CONFIG}; expected a project's folder or a .py file")
        command = [python, "-P", "-m", "eagleray", "job", *(words or ["run", "--all"])]
        return target.resolve(), shlex.join(command)
    if target.suffix != ".py" or not target.is_file():
        raise ConfigError(str(target), "expected a Python script (.py) or a project's folder")
    return target.resolve().parent, shlex.join([python, target.name, *words])


def _check_door(url: str, insecure: bool) -> None:
    """Refuse a job server that takes jobs from anybody, unless told otherwise."""
    use_own_token()
    if not insecure and serves_strangers(f"{url}/api/jobs/"):
        raise ConfigError(
            "--address",
            f"the job server at {url} lets anyone who reaches it run code (CVE-2023-48022); start its cluster with "
            "RAY_AUTH_MODE=token, or accept the risk with --insecure-ray",
        )


def _url(address: str) -> str:
    return address if "://" in address else f"http://{address}"


def _places(folder: Path) -> dict[str, str]:
    """Where the project keeps its data: relative to its own folder, not to the copy that is shipped."""
    if not (folder / CONFIG).exists():
        return {}
    config = load_config(folder / CONFIG)
    places = {"EAGLERAY__DATA_DIR": str(config.data_dir)}
    if config.lake.warehouse:
        places["EAGLERAY__LAKE__WAREHOUSE"] = config.lake.warehouse
    if config.lake.catalog.uri and config.lake.catalog.uri.startswith("sqlite:"):  # others may hold a password
        places["EAGLERAY__LAKE__CATALOG__URI"] = config.lake.catalog.uri
    return places


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError("--env", f"expected NAME=VALUE, found {text!r}")
    return name, value


def _run(url: str, entrypoint: str, runtime: dict[str, Any], wait: bool) -> int:
    client, job = _submitted(url, entrypoint, runtime)
    print(f"submitted {job} to {url}: {entrypoint}", file=sys.stderr, flush=True)
    if not wait:
        print(job)
        return 0
    try:
        asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        client.stop_job(job)
        raise EaglerayError(f"{job} was stopped") from None
    info = client.get_job_info(job)
    status = client.get_job_status(job)
    if str(status) == "SUCCEEDED":
        return 0
    print(f"{job} {str(status).lower()}: {str(info.message).partition(chr(10))[0]}", file=sys.stderr)
    return int(info.driver_exit_code or 1)


def _submitted(url: str, entrypoint: str, runtime: dict[str, Any]) -> tuple[Any, str]:
    """The client, and the job's id; waits for a server that is starting."""
    from ray.job_submission import JobSubmissionClient

    for handler in logging.getLogger("ray").handlers:  # it tells of every package that it uploads
        handler.setLevel(logging.WARNING)
    deadline = time.monotonic() + START_S
    while True:
        try:
            client = JobSubmissionClient(url)
            return client, client.submit_job(entrypoint=entrypoint, runtime_env=runtime)
        except (ConnectionError, RuntimeError) as error:
            starting = isinstance(error, ConnectionError) or "No available agent" in str(error)
            if not starting or time.monotonic() > deadline:
                raise EaglerayError(f"the job server at {url} did not take the job: {error}") from error
        time.sleep(0.5)


async def _follow(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)
