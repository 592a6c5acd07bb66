"""`eagleray job`: runs, backfills and shows the project's jobs, and submits scripts to a cluster.

Only names and options are here; what a command does is loaded when it is asked for.
"""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from eagleray.cli.completion import jobs
from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile, InsecureRay

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


class Format(StrEnum):
    """How a list is printed."""

    table = "table"
    json = "json"


Data = Annotated[Path | None, typer.Option(help="Overrides data_dir.")]
Address = Annotated[
    str | None,
    typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster to run on (`auto`, or host:port); default: this machine."),
]
Form = Annotated[Format, typer.Option("--format", help="How to print it.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A job's name.", autocompletion=jobs)]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Jobs, by name.", autocompletion=jobs)]
RunId = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="A run's id, or its first characters; default: the last run.")
]
Var = Annotated[list[str] | None, typer.Option("--var", metavar="NAME=VALUE", help="A variable; may be repeated.")]
Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume/--no-resume",
        help="Resume with what failed, or run everything again; default: resume if the last run for the date failed.",
    ),
]


@app.command("list")
def list_(form: Form = Format.table, config_file: ConfigFile = DEFAULT_CONFIG, data: Data = None) -> None:
    """List the jobs: what they make, when they run, how the last run ended."""
    _called("jobs_shown", "list_jobs", config_file, data, form.value)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def run(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Jobs, or one built-in job.", autocompletion=jobs),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every job of the project.")] = False,
    date: Annotated[str | None, typer.Option(help="The logical date; default: the last period that is over.")] = None,
    resume: Resume = None,
    upstream: Annotated[bool, typer.Option("--upstream", help="Also the jobs that these need.")] = False,
    downstream: Annotated[bool, typer.Option("--downstream", help="Also the jobs that need these.")] = False,
    late: Annotated[bool, typer.Option("--late", help="The dates that got late events, and what follows.")] = False,
    var: Var = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="Runs at once; default: jobs.concurrency.")] = None,
    address: Address = None,
    insecure_ray: InsecureRay = False,
    config_file: ConfigFile = DEFAULT_CONFIG,
    data: Data = None,
) -> None:
    """Run jobs in the order of what they need.

    Built-in: compact, expire, orphans, forget, rebuild, replay, retention, scrub.
    """
    from eagleray.jobs.run.builtin_jobs import BUILT_IN, run_built_in

    chosen = names or []
    if chosen and chosen[0] in BUILT_IN:
        run_built_in(chosen[0], [*chosen[1:], *context.args], config_file, data)
        return
    if context.args or any(name.startswith("-") for name in chosen):
        unknown = next(word for word in [*chosen, *context.args] if word.startswith("-"))
        raise typer.BadParameter(f"No such option: {unknown}")
    words: dict[str, Any] = {
        "upstream": upstream,
        "downstream": downstream,
        "late": late,
        "parallel": parallel,
        "address": address,
    }
    words["var"] = var
    rest = (tuple(chosen), everything, date, resume)
    _called("jobs_run", "run_jobs", config_file, data, *rest, insecure_ray=insecure_ray, **words)


@app.command()
def backfill(
    name: Name,
    first: Annotated[str, typer.Option("--from", help="The first date.")],
    last: Annotated[str, typer.Option("--to", help="The last date, included.")],
    parallel: Annotated[int | None, typer.Option(min=1, help="Dates at once; default: jobs.concurrency.")] = None,
    downstream: Annotated[bool, typer.Option("--downstream", help="Also the jobs that need it.")] = False,
    resume: Resume = None,
    var: Var = None,
    address: Address = None,
    insecure_ray: InsecureRay = False,
    config_file: ConfigFile = DEFAULT_CONFIG,
    data: Data = None,
) -> None:
    """Run a job for every date of a stretch of time."""
    words = {"parallel": parallel, "downstream": downstream, "resume": resume, "address": address, "var": var}
    rest = (name, first, last)
    _called("jobs_run", "backfill_job", config_file, data, *rest, insecure_ray=insecure_ray, **words)


@app.command()
def status(
    run_id: RunId = None,
    limit: Annotated[int, typer.Option(min=1, help="Runs to show.")] = 20,
    form: Form = Format.table,
    config_file: ConfigFile = DEFAULT_CONFIG,
    data: Data = None,
) -> None:
    """Show the latest runs, or one run: its jobs, rows, attempts, failures."""
    _called("jobs_shown", "show_status", config_file, data, run_id, limit, form.value)


@app.command()
def logs(
    run_id: RunId = None,
    name: Annotated[str | None, typer.Option("--job", help="This job alone.")] = None,
    config_file: ConfigFile = DEFAULT_CONFIG,
    data: Data = None,
) -> None:
    """Print what a run's jobs have printed and logged."""
    _called("jobs_shown", "show_logs", config_file, data, run_id, name)


@app.command()
def pause(names: Names, config_file: ConfigFile = DEFAULT_CONFIG, data: Data = None) -> None:
    """Start jobs no more by their schedules, until they are resumed; what runs goes on to its end."""
    _called("jobs_paused", "pause_jobs", config_file, data, tuple(names))


@app.command()
def resume(names: Names, config_file: ConfigFile = DEFAULT_CONFIG, data: Data = None) -> None:
    """Start paused jobs by their schedules again."""
    _called("jobs_paused", "resume_jobs", config_file, data, tuple(names))


@app.command()
def show(name: Name, config_file: ConfigFile = DEFAULT_CONFIG, data: Data = None) -> None:
    """Show a job: what it reads, makes and checks, its limits, its last and next runs."""
    _called("jobs_shown", "show_job", config_file, data, name)


@app.command()
def rejected(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 20,
    config_file: ConfigFile = DEFAULT_CONFIG,
    data: Data = None,
) -> None:
    """Show what a job's checks refused: the checks, their bad rows, and rows of the result that was not published."""
    _called("jobs_shown", "show_rejected", config_file, data, name, limit)


@app.command(context_settings={"ignore_unknown_options": True})
def submit(
    target: Annotated[Path, typer.Argument(metavar="SCRIPT|PROJECT", help="A Python script, or a project's folder.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGUMENT]...", help="For the script.")] = None,
    address: Annotated[
        str | None,
        typer.Option(envvar="RAY_ADDRESS", help="The cluster's job server (http://host:8265); default: one here."),
    ] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the script; may be repeated.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log and exit as the script does.")] = True,
    insecure_ray: InsecureRay = False,
) -> None:
    """Run a script or a project on a Ray cluster; a project runs all of its jobs unless arguments say otherwise."""
    submit = import_module("eagleray.jobs.submit").submit
    _exit(submit(target, arguments or [], address, env or [], wait, insecure_ray))


def _called(
    module: str,
    function: str,
    config_file: Path,
    data: Path | None,
    *rest: Any,
    insecure_ray: bool = False,
    **named: Any,
) -> None:
    from eagleray.cluster.config import load_config

    config = load_config(config_file, data_dir=data, insecure_ray=insecure_ray)
    _exit(getattr(import_module(f"eagleray.cli.{module}"), function)(config, *rest, **named))


def _exit(code: int | None) -> None:
    if code:
        raise typer.Exit(code)
