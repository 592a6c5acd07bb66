"""Manifests of deploy/ as tests read them: built by kustomize, walked, and compared with schemas."""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012 as JSON_SCHEMA

from tests.servers.installed import go_program

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERAY = DEPLOY / "kuberay"
DATA = Path(os.environ.get("EAGLERAY_TEST_DATA") or ROOT.parent / "shared" / "data")
KUSTOMIZE = "v5.7.1"
SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
Document = dict[str, Any]


@functools.cache
def _builder() -> tuple[str, ...]:
    """What builds kustomizations: kubectl, kustomize, or a kustomize that Go builds once."""
    if shutil.which("kubectl"):
        return ("kubectl", "kustomize")
    if shutil.which("kustomize"):
        return ("kustomize", "build")
    if shutil.which("go"):
        return (str(go_program("kustomize", KUSTOMIZE, "sigs.k8s.io/kustomize/kustomize/v5")), "build")
    pytest.skip("there is no kubectl, kustomize or go here, one of which is needed to build the overlays")


@functools.cache
def built(place: str) -> tuple[Document, ...]:
    """The documents of the kustomization at `place` below deploy/kuberay."""
    done = subprocess.run([*_builder(), str(KUBERAY / place)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.load_all(done.stdout, yaml.CSafeLoader))


def of_kind(documents: tuple[Document, ...], kind: str, name: str | None = None) -> list[Document]:
    """Those of one kind, or the one of that name."""
    return [one for one in documents if one["kind"] == kind and name in (None, one["metadata"]["name"])]


def objects(document: Any) -> Iterator[Document]:
    """Every object in a document, itself first, however deep."""
    if isinstance(document, dict):
        yield document
    below = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    for value in below:
        yield from objects(value)


def pod_specs(document: Any) -> Iterator[Document]:
    """Every pod that a document describes: anything with containers."""
    return (one for one in objects(document) if isinstance(one.get("containers"), list))


def entrypoints(document: Any) -> Iterator[str]:
    """Every command that a RayJob or RayCronJob runs on its cluster."""
    return (one["entrypoint"] for one in objects(document) if isinstance(one.get("entrypoint"), str))


def commands(documents: tuple[Document, ...], program: str) -> list[list[str]]:
    """The arguments of each call of `program` in containers and entrypoints."""
    lines = [shlex.split(text) for document in documents for text in entrypoints(document)]
    for document in documents:
        for pod in pod_specs(document):
            lines += [[*one.get("command", ()), *one.get("args", ())] for one in pod["containers"]]
    return [line[line.index(program) + 1 :] for line in lines if program in line]


@functools.cache
def _crd(plural: str) -> Document:
    file = DATA / "kuberay" / "crds" / f"ray.io_{plural}.yaml"
    if not file.exists():
        pytest.skip(f"no {file.name} in {file.parent}; set EAGLERAY_TEST_DATA to a directory that has kuberay/crds")
    found: Document = yaml.load(file.read_text(), yaml.CSafeLoader)
    return found


def check_against_crd(document: Document) -> None:
    """Raise ValidationError where KubeRay's definition of this kind does not allow it; unknown fields are not."""
    definition = _crd(f"{document['kind'].lower()}s")
    version = document["apiVersion"].partition("/")[2]
    schema = next(one["schema"] for one in definition["spec"]["versions"] if one["name"] == version)
    # Decided on the way down: only what the document has is looked up in a schema of a megabyte.
    jsonschema.Draft202012Validator(_closed(schema["openAPIV3Schema"], document, root=True)).validate(document)


def check_against_kubernetes(document: Document, version: str) -> None:
    """Raise ValidationError where Kubernetes `version` knows no such object, or not one of its fields."""
    group, _, name = document["apiVersion"].rpartition("/")
    kind = "-".join(filter(None, [document["kind"].lower(), group.partition(".")[0], name]))
    folder = SCHEMAS / f"v{version}.0-local-strict"
    schema = json.loads((folder / f"{kind}.json").read_text())
    jsonschema.Draft202012Validator(schema, registry=_definitions(folder)).validate(document)


@functools.cache
def _definitions(folder: Path) -> Registry[Any]:
    """What all kinds of a version refer to: a megabyte and more, read once."""
    definitions = json.loads((folder / "_definitions.json").read_text())
    return Registry().with_resource("_definitions.json", Resource.from_contents(definitions, JSON_SCHEMA)).crawl()


def _closed(schema: Document, value: Any, root: bool = False) -> Document:
    """The schema as JSON Schema for `value`: what Kubernetes calls pruning is an error, and its types are spelt out."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {key: schema[key] for key in ("type", "enum", "pattern", "minimum", "maximum", "required") if key in schema}
    properties = schema.get("properties")
    if isinstance(value, dict):
        if properties is not None:
            known = {key: properties[key] for key in value if key in properties}
            found["properties"] = {key: _closed(inner, value[key]) for key, inner in known.items()}
            open_ = schema.get("x-kubernetes-preserve-unknown-fields") or root
            found["additionalProperties"] = bool(open_)
        elif isinstance(inner := schema.get("additionalProperties"), dict):
            found["properties"] = {key: _closed(inner, value[key]) for key in value}
    elif isinstance(value, list) and "items" in schema:
        found["prefixItems"] = [_closed(schema["items"], one) for one in value]
    return found
