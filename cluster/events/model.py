"""A pydantic model as a stream's schema: loaded by reference, the arbiter of its events besides its own JSON Schema.

Called by `schema` when the configuration is read, and by `arbiter` in every worker. Models whose validators go beyond
what the JSON Schema says (functions, constraints of their own) are asked about every event; plain ones about none.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.hidden_paths import without_paths

MODEL_DEPTH_MAX = 190  # pydantic's JSON reader refuses 200 levels
_PLAIN: dict[str, frozenset[str]] = {
    "any": frozenset(),
    "bool": frozenset({"strict"}),
    "int": frozenset({"strict", "ge", "gt", "le", "lt"}),
    "float": frozenset({"strict", "ge", "gt", "le", "lt", "allow_inf_nan"}),
    "str": frozenset({"strict", "min_length", "max_length"}),
    "literal": frozenset({"expected"}),
    "datetime": frozenset({"strict", "microseconds_precision"}),
    "nullable": frozenset({"schema", "strict"}),
    "default": frozenset({"schema", "default"}),
    "list": frozenset({"items_schema", "strict", "min_length", "max_length"}),
    "dict": frozenset({"keys_schema", "values_schema", "strict"}),
    "model": frozenset({"cls", "schema", "custom_init", "root_model", "config"}),
    "model-fields": frozenset({"fields", "model_name", "computed_fields"}),
    "model-field": frozenset({"schema", "description"}),
    "definitions": frozenset({"schema", "definitions"}),
    "definition-ref": frozenset({"schema_ref"}),
}
"""Core-schema nodes, with their settings, that accept whatever fits the model's JSON Schema."""
_PLAIN_CONFIG = frozenset({"title", "extra_fields_behavior", "frozen"})
_BELOW = ("schema", "items_schema", "keys_schema", "values_schema", "definitions")
_NOT_SETTINGS = frozenset({"type", "metadata", "ref", "serialization"})


@dataclass(frozen=True)
class ModelReference:
    """Where a model is: `reference` is `module:Model`, imported with `base` (a directory) on the path."""

    reference: str
    base: str


def load_model(where: str, model: ModelReference) -> type[BaseModel]:
    """Import the model; raises ConfigError."""
    module_name, _, name = model.reference.partition(":")
    sys.path.insert(0, model.base)
    try:
        importlib.invalidate_caches()
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # the user's module may raise anything at all
        expected = "expected a JSON Schema file or package.module:PydanticModel"
        raise ConfigError(where, f"cannot load {model.reference!r}: {error}; {expected}") from error
    finally:
        sys.path.remove(model.base)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise ConfigError(where, f"{model.reference!r} is {found!r}; expected a pydantic model")
    return found


def is_plain(model: type[BaseModel]) -> bool:
    """Whether the model accepts whatever fits its JSON Schema, so that no event need be shown to it."""
    return _plain(model.__pydantic_core_schema__)


def _plain(node: Any) -> bool:
    if isinstance(node, list | tuple):
        return all(_plain(below) for below in node)
    if not isinstance(node, dict) or "type" not in node:
        return True
    allowed = _PLAIN.get(node["type"])
    settings = {name for name, value in node.items() if name not in _NOT_SETTINGS and value not in (None, False, [])}
    if allowed is None or not settings <= allowed or not set(node.get("config", ())) <= _PLAIN_CONFIG:
        return False
    if node["type"] == "model-fields":
        return all(_plain(below) for below in node["fields"].values())
    return all(_plain(node[name]) for name in _BELOW if name in node)


class ModelJudge:
    """Asks the model about an event, in strict mode, as JSON."""

    def __init__(self, model: type[BaseModel]) -> None:
        """`model` was loaded by `load_model`."""
        self._validate = model.__pydantic_validator__.validate_json

    def objection(self, raw: bytes) -> str | None:
        """Why the model refuses the event; None where it accepts it."""
        try:
            self._validate(raw, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            path = ".".join(str(part) for part in first["loc"])
            return f"{path}: {first['msg']}" if path else first["msg"]
        except Exception as error:  # a validator of the user's that failed is an event that cannot be judged valid
            return without_paths(f"the model failed: {type(error).__name__}: {error}")
        return None
