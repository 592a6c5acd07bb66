"""YAML as people mean it, with the line of every key: for the configuration, and for headers of jobs.

Words are YAML 1.2's: `true` and `false` are the only booleans, and `[yes, no]` are two words, as whoever writes values
of a column means them. So are `012`, `1_000` and `12:30`, which YAML 1.1 takes for 10, 1000 and 750; `on` is a key.
A key that is there twice is an error, and nothing but a newline ends a line: U+0085, U+2028 and U+2029 are the user's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import yaml

Path = tuple[str | int, ...]


class YamlError(ValueError):
    """The text is no mapping, or no YAML; `line` is counted from 1, and so is `column`, where it is known."""

    def __init__(self, line: int, problem: str, column: int | None = None) -> None:
        """`problem` says what was found and what was expected."""
        super().__init__(problem)
        self.line = line
        self.problem = problem
        self.column = column


@dataclass(frozen=True)
class YamlMap:
    """Values as YAML has them; by its path the line at which each key or list entry begins, and how each is written.

    `texts`: of words, numbers and dates, without quotes: `1.10` says more than the number.
    """

    values: dict[str, Any]
    lines: dict[Path, int]
    texts: dict[Path, str]

    def line(self, path: Path) -> int:
        """The line of `path`, or of the nearest that is written above it."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]


class Written(float):
    """A number that knows how it is written: `1234567890123456.78` has more digits than a float."""

    text: str


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Written:
    number = Written(loader.construct_yaml_float(node))
    number.text = str(node.value)
    return number


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans in PyYAML, which has those of YAML 1.1."""


_BOOL, _INT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    sign: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _INT, _FLOAT)]
    for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


_Loader.add_constructor(_FLOAT, _float)


def parse_map(text: str) -> YamlMap:
    """Read a mapping; raises YamlError, also for a key that is there twice."""
    found, values = _parsed(text)
    if values is None and () not in found.lines:
        return YamlMap({}, {(): text.count("\n") + 1}, {})
    if not isinstance(values, dict):
        raise YamlError(found.line(()), "expected `key: value` lines")
    return replace(found, values=values)


def load(text: str) -> Any:
    """Read a value of any kind; raises YamlError, also for a key that is there twice."""
    return _parsed(text)[1]


def _parsed(text: str) -> tuple[YamlMap, Any]:
    """Lines and texts of what is there, and its value."""
    kept = _Kept(text)
    found = YamlMap({}, {}, {})
    loader = None
    try:
        loader = _Loader(kept.text)
        root = loader.get_single_node()
        if root is None:
            return found, None
        found.lines[()] = root.start_mark.line + 1
        _index(root, (), found, set())
        value = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, None)
        raise YamlError(line, f"not YAML: {error.problem or error.context}", column) from None
    except (yaml.YAMLError, ValueError) as error:  # dates such as 2015-13-01 raise ValueError
        if isinstance(error, YamlError):
            raise
        raise YamlError(1, f"not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise YamlError(1, "nested too deeply; expected keys and values, a few levels deep") from None
    finally:
        if loader is not None:
            loader.dispose()
    return kept.back(found), kept.back(value)


class _Kept:
    """A text with other signs for those that YAML 1.1 takes for the end of a line, and the way back."""

    def __init__(self, text: str) -> None:
        """The signs are of the private use area, and not in `text`."""
        present = [sign for sign in "\x85\u2028\u2029" if sign in text]
        free = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in text) if present else iter(())
        stand_ins = dict(zip(present, free, strict=False))
        self.text = text.translate({ord(sign): stand_in for sign, stand_in in stand_ins.items()})
        self._back = {ord(stand_in): sign for sign, stand_in in stand_ins.items()}

    def back(self, value: Any) -> Any:
        """`value` with the signs that stood in the text."""
        if not self._back:
            return value
        if isinstance(value, YamlMap):
            return YamlMap({}, self.back(value.lines), self.back(value.texts))
        if isinstance(value, str):
            return value.translate(self._back)
        if isinstance(value, dict):
            return {self.back(key): self.back(one) for key, one in value.items()}
        if isinstance(value, list | tuple | set):
            return type(value)(self.back(one) for one in value)
        return value


def _index(node: yaml.Node, path: Path, found: YamlMap, seen: set[int]) -> None:
    if id(node) in seen:  # an alias: its lines are those of its anchor
        return
    seen.add(id(node))
    lines = found.lines
    children: list[tuple[str | int, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(index, value, value) for index, value in enumerate(node.value)]
    for name, place, value in children:
        line = place.start_mark.line + 1
        if (*path, name) in lines:
            raise YamlError(line, f"{name} is there twice, first on line {lines[*path, name]}")
        lines[*path, name] = line
        if isinstance(value, yaml.ScalarNode):
            found.texts[*path, name] = value.value
        _index(value, (*path, name), found, seen)
