"""A real server of KubeRay's definitions takes every object of its kinds: pruning, defaults, rules in CEL.

It is the part of Kubernetes' API server that serves CustomResourceDefinitions, and can be built in minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kubernetes.definitions import Definitions, missing
from tests.manifests import DATA, Document, built

PLACES = ("overlays/dev", "overlays/production", "jobs/batch", "jobs/benchmark")
OURS = ("RayCluster", "RayJob", "RayCronJob")


@pytest.fixture(scope="module")
def server() -> Iterator[Definitions]:
    """It knows KubeRay's kinds."""
    if why := missing():
        pytest.skip(why)
    crds = DATA / "kuberay" / "crds"
    if not crds.exists():
        pytest.skip(f"no {crds}; set EAGLERAY_TEST_DATA to a directory that has kuberay/crds")
    with tempfile.TemporaryDirectory(prefix="eagleray-kubernetes-", ignore_cleanup_errors=True) as directory:
        made = Definitions(Path(directory) / "server")
        try:
            made.start()
            for kind in OURS:
                _define(made, yaml.load((crds / f"ray.io_{kind.lower()}s.yaml").read_text(), yaml.CSafeLoader))
            yield made
        finally:
            made.stop()


def _define(server: Definitions, definition: Document) -> None:
    place = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    used = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    server.ask("POST", place, {**definition, "spec": {**definition["spec"], "versions": used}})

    def established() -> bool:
        status = server.ask("GET", f"{place}/{definition['metadata']['name']}")["status"]
        conditions = status.get("conditions") or ()
        return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

    server.until(established, f"{definition['metadata']['name']} is established")


def apply(server: Definitions, document: Document) -> Document:
    """The object as the server would keep it; raises AssertionError where it refuses it."""
    meta = document["metadata"]
    plural = f"{document['kind'].lower()}s"
    path = f"/apis/{document['apiVersion']}/namespaces/{meta['namespace']}/{plural}/{meta['name']}"
    return server.apply(path, document, dryRun="All")


@pytest.mark.parametrize("place", PLACES)
def test_the_server_takes_every_object_of_kuberays_kinds(server: Definitions, place: str) -> None:
    documents = [one for one in built(place) if one["kind"] in OURS]
    assert documents
    for document in documents:
        kept = apply(server, document)
        assert kept["metadata"]["uid"] and kept["spec"].keys() >= document["spec"].keys()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("rayVersoin",), "2", "rayVersoin"),
        (("authOptions", "mode"), "password", "authOptions.mode"),
        (("headGroupSpec", "template", "spec", "containers", 0, "resources", "limits", "cpu"), "much", "much"),
        (("workerGroupSpecs", 0, "maxReplicas"), "many", "maxReplicas"),
    ],
)
def test_the_server_refuses_what_is_spoilt(
    server: Definitions, path: tuple[str | int, ...], value: str, said: str
) -> None:
    (cluster,) = [one for one in built("overlays/dev") if one["kind"] == "RayCluster"]
    spoilt = yaml.safe_load(yaml.safe_dump(cluster))
    place = spoilt["spec"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(AssertionError, match=said):
        apply(server, spoilt)
