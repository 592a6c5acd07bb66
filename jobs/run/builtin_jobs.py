"""Runs the jobs that come with Eagleray: `eagleray job run compact --table …`. Their options are a dataclass each.

A module `jobs.builtin.<name>` has `run(config, options) -> report`; its options become command-line options by name and
type, its report is printed as `key: value`.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.quantities import parse_duration

BUILT_IN = ("compact", "expire", "forget", "orphans", "rebuild", "replay", "retention", "scrub")


def run_built_in(name: str, words: Sequence[str], config_file: Path, data: Path | None) -> None:
    """Run built-in job `name` with command-line `words`; raises ConfigError for wrong options, else what it raises."""
    options = parse_options(name, words)
    config = load_config(config_file, data_dir=data)
    report = _recorded(config, " ".join([name, *words]), lambda: _module(name).run(config, options))
    for field in dataclasses.fields(report):
        print(f"{field.name.replace('_', ' ')}: {_shown(getattr(report, field.name))}")


def _module(name: str) -> types.ModuleType:
    return import_module(f"eagleray.jobs.builtin.{name}")


def parse_options(name: str, words: Sequence[str]) -> Any:
    """The options of built-in job `name` from command-line words; raises ConfigError."""
    kind = get_type_hints(_module(name).run)["options"]
    parser = _Parser(prog=f"eagleray job run {name}", description=(kind.__doc__ or "").split("\n")[0])
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        _add(parser, field, hints[field.name])
    return kind(**vars(parser.parse_args(list(words))))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(self.prog, message)


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], hint: Any) -> None:
    flag = "--" + field.name.removesuffix("_us").replace("_", "-")
    settings: dict[str, Any] = {"dest": field.name, "help": field.metadata.get("help")}
    if field.default is not dataclasses.MISSING:
        settings["default"] = field.default
    elif field.default_factory is not dataclasses.MISSING:
        settings["default"] = field.default_factory()
    else:
        settings["required"] = True
    hint = _without_none(hint)
    if hint is bool:
        settings["action"] = argparse.BooleanOptionalAction
    elif get_origin(hint) in (tuple, list):
        settings |= {"nargs": "+", "type": get_args(hint)[0], "action": _AsTuple}
    elif get_origin(hint) is Literal:
        settings["choices"] = get_args(hint)
    elif field.name.endswith("_us"):
        settings["type"] = parse_duration
    else:
        settings["type"] = hint
    parser.add_argument(flag, **settings)


class _AsTuple(argparse.Action):
    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (one for one in get_args(hint) if one is not type(None))
    return hint


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _recorded(config: Config, what: str, work: Any) -> Any:
    """What `work` returns; that it ran, and how it ended, is in the history."""
    from eagleray.jobs.run.history import History
    from eagleray.jobs.run.plan import Plan

    history = History.open(config)
    try:
        run = history.begin(Plan(what, "", ()), "built-in", ())
        state = "failed"
        try:
            report = work()
            state = "succeeded"
        finally:
            history.finish(run, state, ())
        return report
    finally:
        history.close()
