"""What deploy/ names is what there is: manifests, compose and systemd against schemas, and against the code."""

from __future__ import annotations

import json
import mmap
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from pydantic import BaseModel
from typer.main import get_command

import eagleray
from eagleray.actors.edge.route_table import table
from eagleray.actors.placement import POOLS, ROLE
from eagleray.actors.platform import ALONE_CPUS, ALONE_MEMORY, DRAIN_GRACE_S
from eagleray.actors.pool import LEAVE_S
from eagleray.cli.app import COMMANDS, build
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.one_machine import check_nodes
from eagleray.cluster.sections import EdgeConfig
from tests.manifests import (
    DEPLOY,
    KUBERAY,
    ROOT,
    Document,
    built,
    check_against_crd,
    check_against_kubernetes,
    commands,
    entrypoints,
    objects,
    of_kind,
    pod_specs,
)

OVERLAYS = ("overlays/dev", "overlays/production")
JOBS = ("jobs/batch", "jobs/benchmark")
KUBERNETES = "1.34"
RAYS = ("RayCluster", "RayJob", "RayCronJob", "RayService")
WRITTEN_BY_OTHERS = {  # who reads them: the operating system, libpq, boto3
    "HOME",
    "PGPASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_EC2_METADATA_DISABLED",
}
PORTS_OF_OTHERS = {53, 443, 6443, 9092, 9093, 5432, 6379, 8265}


def ours(documents: tuple[Document, ...]) -> Iterator[tuple[Document, Document]]:
    """Pods of our image, and each container of it."""
    for document in documents:
        for pod in pod_specs(document):
            for container in pod["containers"]:
                if container["image"].rpartition(":")[0].endswith("/eagleray"):
                    yield pod, container


def project(place: str, tmp_path: Path) -> Config:
    """The configuration that the pods of an overlay find in /project, with the environment that they have."""
    documents = built(place)
    (found,) = of_kind(documents, "ConfigMap", "eagleray-project")
    for name, text in found["data"].items():
        (tmp_path / name).write_text(text)
    environ = {"EAGLERAY__LAKE__CATALOG__URI": "postgresql://eagleray@db.example.org/lake"}
    return load_config(tmp_path / "eagleray.yaml", environ=environ)


@pytest.mark.parametrize("place", [*OVERLAYS, *JOBS])
def test_manifests_are_what_kubernetes_and_kuberay_take(place: str) -> None:
    for document in built(place):
        if document["kind"] in RAYS:
            check_against_crd(document)
        else:
            check_against_kubernetes(document, KUBERNETES)


def test_a_field_that_kubernetes_or_kuberay_does_not_know_is_an_error() -> None:
    (service,) = of_kind(built(OVERLAYS[0]), "Service", "eagleray-edge")
    with pytest.raises(jsonschema.ValidationError, match="selektor"):
        check_against_kubernetes({**service, "spec": {**service["spec"], "selektor": {}}}, KUBERNETES)
    (cluster,) = of_kind(built(OVERLAYS[0]), "RayCluster")
    spoilt = {**cluster, "spec": {**cluster["spec"], "rayVersoin": "2"}}
    with pytest.raises(jsonschema.ValidationError, match="rayVersoin"):
        check_against_crd(spoilt)


@pytest.mark.parametrize("place", OVERLAYS)
def test_the_project_of_an_overlay_is_one_that_several_nodes_can_run(place: str, tmp_path: Path) -> None:
    config = project(place, tmp_path)
    check_nodes(config, 3)
    assert set(load_streams(config)) == {"plays"}
    assert config.edge.auth == "required"


@pytest.mark.parametrize("place", OVERLAYS)
def test_ports_are_those_that_the_edge_listens_on(place: str, tmp_path: Path) -> None:
    port = project(place, tmp_path).edge.port
    documents = built(place)
    (cluster,) = of_kind(documents, "RayCluster")
    (edge,) = [group for group in cluster["spec"]["workerGroupSpecs"] if group["groupName"] == "edge"]
    (container,) = edge["template"]["spec"]["containers"]
    assert container["ports"] == [{"containerPort": port, "name": "http"}]
    (service,) = of_kind(documents, "Service", "eagleray-edge")
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    for policy in of_kind(documents, "NetworkPolicy"):
        rules = [*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ())]
        assert {one["port"] for rule in rules for one in rule.get("ports", ())} <= {port, *PORTS_OF_OTHERS}
    broker = int(project(place, tmp_path).log.brokers[0].rpartition(":")[2])
    assert broker in {9092, 9093}


@pytest.mark.parametrize("place", OVERLAYS)
def test_probes_and_paths_of_the_ingress_are_routes(place: str) -> None:
    handlers: Any = dict.fromkeys(("ingest", "windows", "sql", "pools", "status", "openapi"), _Any())
    routes = {route.path for route in table(EdgeConfig(), **handlers)}
    documents = built(place)
    of_ray = {"/api/healthz"}
    for _, container in ours(documents):
        probes = [container[name] for name in container if name.endswith("Probe")]
        assert {probe["httpGet"]["path"] for probe in probes} <= routes | of_ray
    (ingress,) = of_kind(documents, "Ingress")
    for rule in ingress["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            assert any(route.startswith(path["path"]) for route in routes), path


class _Any:
    """Stands where a handler is bound; a route's path does not depend on it."""

    def __getattr__(self, name: str) -> Any:
        return None


@pytest.mark.parametrize("place", [*OVERLAYS, *JOBS])
def test_commands_are_ones_that_the_command_line_takes(place: str) -> None:
    for words in commands(built(place), "eagleray"):
        check_command(words)


def check_command(words: list[str]) -> None:
    """Have the command line read its arguments, without running anything; it exits where it does not know one."""
    name, *rest = words
    assert name in COMMANDS
    command: Any = get_command(build(name)).commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, list(rest))
    while hasattr(command, "resolve_command"):
        inner, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(inner, list(rest), parent=context)
    names = context.params.get("names") or ()  # `job run` hands what it does not know to a built-in job, as names
    assert not [word for word in names if word.startswith("--")], names


def test_an_option_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option: --adress"):
        check_command(["up", "--adress", "auto"])
    with pytest.raises(AssertionError, match="--everything"):
        check_command(["job", "run", "--everything"])


@pytest.mark.parametrize("place", JOBS)
def test_scripts_of_jobs_are_in_the_image_with_these_options(place: str) -> None:
    lines = [shlex.split(text) for document in built(place) for text in entrypoints(document)]
    for script, *words in (line[1:] for line in lines if line[0] == "python"):
        file = ROOT / script.removeprefix("/opt/eagleray/share/")
        assert script.startswith("/opt/eagleray/share/benchmarks/") and file.exists()
        told = subprocess.run([sys.executable, file, "--help"], capture_output=True, text=True, check=True).stdout
        assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", told))


@pytest.mark.parametrize("place", [*OVERLAYS, *JOBS])
def test_every_variable_is_read_by_somebody(place: str, tmp_path: Path) -> None:
    documents = built(place)
    sasl = project(place, tmp_path).log.kafka.sasl if place in OVERLAYS else None
    named = {sasl.password_env} if sasl else {"KAFKA_PASSWORD"}
    for _, container in ours(documents):
        for variable in container.get("env", ()):
            assert read_by_somebody(variable["name"]) or variable["name"] in named, variable["name"]


def read_by_somebody(name: str) -> bool:
    """Whether a variable is a setting of ours, one of Ray's, or of a library that we use."""
    if name.startswith("EAGLERAY__"):
        return setting(Config, name.removeprefix("EAGLERAY__").lower().split("__"))
    if name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        return True
    if name.startswith("RAY_"):
        with (
            Path(ray._raylet.__file__).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as all_,
        ):
            return all_.find(name.removeprefix("RAY_").encode()) >= 0
    return name in WRITTEN_BY_OTHERS


def setting(model: Any, path: list[str]) -> bool:
    """Whether a section has this setting; pyiceberg's catalogs take any."""
    first, *rest = path
    fields: Mapping[str, Any] = model.model_fields
    field = next((found for key, found in fields.items() if first in (key, found.alias)), None)
    if field is None:
        return model.model_config.get("extra") == "allow"
    inner = field.annotation
    return not rest or (isinstance(inner, type) and issubclass(inner, BaseModel) and setting(inner, rest))


@pytest.mark.parametrize("place", OVERLAYS)
def test_files_named_in_pods_are_mounted(place: str, tmp_path: Path) -> None:
    documents = built(place)
    config = project(place, tmp_path)
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(documents, "ConfigMap")}
    assert {Path(words[words.index("--config") + 1]) for words in commands(documents, "eagleray")} == {
        Path("/project/eagleray.yaml")
    }
    (cluster,) = of_kind(documents, "RayCluster")
    for pod, container in ours((cluster,)):
        volumes = {one["name"]: one for one in pod["volumes"]}
        mounts = {one["mountPath"]: volumes[one["name"]] for one in container["volumeMounts"]}
        assert str(config.data_dir.parent) in mounts and "/tmp" in mounts
        assert "eagleray.yaml" in maps[mounts["/project"]["configMap"]["name"]]
        if hook := container.get("lifecycle"):
            script = Path(hook["preStop"]["exec"]["command"][1])
            assert script.name in maps[mounts[str(script.parent)]["configMap"]["name"]]


@pytest.mark.parametrize("place", OVERLAYS)
def test_a_pod_may_end_when_its_workers_have_left(place: str) -> None:
    (scripts,) = of_kind(built(place), "ConfigMap", "eagleray-scripts")
    drain_s = int(re.search(r"^DRAIN_S=(\d+)$", scripts["data"]["drain.sh"], re.MULTILINE)[1])  # type: ignore[index]
    (cluster,) = of_kind(built(place), "RayCluster")
    for group in cluster["spec"]["workerGroupSpecs"]:
        spec = group["template"]["spec"]
        assert LEAVE_S < drain_s < spec["terminationGracePeriodSeconds"]
        assert spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sh", "/scripts/drain.sh"]


@pytest.mark.parametrize("place", [*OVERLAYS, *JOBS])
def test_our_containers_are_bounded_and_may_do_nothing_but_their_work(place: str) -> None:
    for pod, container in ours(built(place)):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        rights = container["securityContext"]
        assert not rights["allowPrivilegeEscalation"] and rights["capabilities"] == {"drop": ["ALL"]}
        assert rights["readOnlyRootFilesystem"]
        for asked in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][asked])


@pytest.mark.parametrize("place", OVERLAYS)
def test_the_cluster_asks_for_a_token_and_its_head_does_no_work(place: str) -> None:
    (cluster,) = of_kind(built(place), "RayCluster")
    spec = cluster["spec"]
    assert spec["authOptions"]["mode"] == "token" and spec["authOptions"]["secretName"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["rayVersion"] == ray.__version__
    assert spec["autoscalerOptions"]["version"] == "v2" and spec["enableInTreeAutoscaling"]
    names = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert {name: group["labels"] for name, group in names.items()} == {role: {ROLE: role} for role in POOLS}
    for policy in of_kind(built(place), "PodDisruptionBudget"):
        labels = policy["spec"]["selector"]["matchLabels"]
        assert labels["ray.io/cluster"] == cluster["metadata"]["name"]
        assert labels.get("ray.io/group", "edge") in names
    (start,) = of_kind(built(place), "Job")
    line = start["spec"]["template"]["spec"]["containers"][0]["command"]
    assert f"http://{cluster['metadata']['name']}-head-svc:8265" in line


def ray_jobs(documents: tuple[Document, ...]) -> list[Document]:
    """The specifications of all jobs that Ray runs, of those by the clock too."""
    plain = [one["spec"] for one in of_kind(documents, "RayJob")]
    return plain + [one["spec"]["jobTemplate"] for one in of_kind(documents, "RayCronJob")]


def test_a_batch_run_asks_for_what_the_batch_workers_alone_have() -> None:
    documents = (*built("overlays/production"), *built("jobs/batch"))
    (cluster,) = of_kind(documents, "RayCluster")
    offered = {}
    for group in cluster["spec"]["workerGroupSpecs"]:
        # KubeRay hands the text to a shell: JSON in double quotes
        found = group["rayStartParams"].get("resources")
        offered[group["groupName"]] = json.loads(json.loads(found)) if found else {}
    assert [name for name in offered if "batch" in offered[name]] == ["batch"]
    jobs = ray_jobs(documents)
    assert len(jobs) == 2
    for job in jobs:
        ((resource, amount),) = json.loads(job["entrypointResources"]).items()
        assert amount <= offered["batch"][resource]
        assert job["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}


@pytest.mark.parametrize("place", [*OVERLAYS, *JOBS])
def test_nothing_is_asked_for_that_the_operator_refuses(place: str) -> None:
    """What KubeRay 1.6 checks beyond its definitions (utils/validation.go), and then ignores the object."""
    documents = built(place)
    clusters = [one["spec"] for one in of_kind(documents, "RayCluster")]
    clusters += [job["rayClusterSpec"] for job in ray_jobs(documents) if "rayClusterSpec" in job]
    for spec in clusters:
        head, workers = spec["headGroupSpec"], spec.get("workerGroupSpecs", [])
        for group in (head, *workers):
            started = group.get("rayStartParams", {})
            assert "labels" not in started and "redis-password" not in started
            assert not (group.get("resources") and {"num-cpus", "memory", "resources"} & set(started))
            assert "restartPolicy" not in group["template"]["spec"]
        variables = {one["name"] for one in head["template"]["spec"]["containers"][0].get("env", ())}
        assert not {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS", "RAY_enable_autoscaler_v2"} & variables
        for group in workers:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52, 0)  # for tokens
    for document in [*of_kind(documents, "RayJob"), *of_kind(documents, "RayCronJob")]:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
        assert len(document["metadata"]["name"]) <= 47
    for job in ray_jobs(documents):
        assert ("clusterSelector" in job) != ("rayClusterSpec" in job)
        assert not job.get("backoffLimit") and not job.get("suspend")


def test_a_cut_node_is_noticed_as_the_documentation_asks() -> None:
    asked = re.search(r"--system-config='({.*?})'", (ROOT / "docs" / "cluster.md").read_text())
    assert asked
    (cluster,) = of_kind(built("overlays/production"), "RayCluster")
    (head,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in head["env"]}
    for key, value in json.loads(asked[1]).items():
        assert variables[f"RAY_{key}"] == str(value)


@pytest.mark.parametrize("place", OVERLAYS)
def test_workers_that_a_pod_is_for_fit_into_it(place: str, tmp_path: Path) -> None:
    config = project(place, tmp_path)
    (cluster,) = of_kind(built(place), "RayCluster")
    groups = {group["groupName"]: group["template"]["spec"] for group in cluster["spec"]["workerGroupSpecs"]}
    limits = groups["edge"]["containers"][0]["resources"]["limits"]
    cores = config.pools.validate_.max * config.pools.validate_.cpus + config.edge.processes * ALONE_CPUS
    assert cores <= float(limits["cpu"])
    asked = config.pools.validate_.max * config.pools.validate_.memory + config.edge.processes * ALONE_MEMORY
    assert asked <= 0.7 * float(limits["memory"].removesuffix("Gi")) * 2**30  # Ray keeps 30 % for its store


def secrets(document: Any) -> Iterator[tuple[str, str]]:
    """Name and key of every Secret that is referred to."""
    for one in objects(document):
        if found := one.get("secretKeyRef"):
            yield found["name"], found["key"]
        if isinstance(name := one.get("secretName"), str):
            yield name, ""


def test_secrets_of_production_are_made_beside_it_as_the_documentation_says() -> None:
    documents = (*built("overlays/production"), *built("jobs/benchmark"))
    assert not of_kind(documents, "Secret")
    told = (ROOT / "docs" / "kubernetes.md").read_text()
    for name, key in {pair for document in documents for pair in secrets(document)}:
        row = re.search(rf"^\| `{name}` \|.*$", told, re.MULTILINE)
        assert row and (not key or f"`{key}`" in row[0]), (name, key)


def test_the_trial_brings_every_secret_and_server_that_it_refers_to(tmp_path: Path) -> None:
    documents = built("overlays/dev")
    brought = {one["metadata"]["name"]: set(one["data"]) for one in of_kind(documents, "Secret")}
    for name, key in {pair for document in documents for pair in secrets(document)}:
        assert name in brought and (not key or key in brought[name]), (name, key)
    services = {
        f"{one['metadata']['name']}:{port['port']}"
        for one in of_kind(documents, "Service")
        for port in one["spec"]["ports"]
    }
    config = project("overlays/dev", tmp_path)
    (cluster,) = of_kind(documents, "RayCluster")
    asked = {
        *config.log.brokers,
        str(config.lake.s3.endpoint).removeprefix("http://"),
        cluster["spec"]["gcsFaultToleranceOptions"]["redisAddress"],
    }
    assert asked <= services


def test_the_image_is_of_this_version_and_is_made_of_files_that_are_there() -> None:
    version = eagleray.__version__
    assert f"ARG VERSION={version}\n" in (DEPLOY / "Dockerfile").read_text()
    for place in (*OVERLAYS, "jobs/benchmark"):
        assert {container["image"].rpartition(":")[2] for _, container in ours(built(place))} == {version}
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for name in kept)
    script = (DEPLOY / "image.sh").read_text()
    needed = {
        *re.findall(r"[\w-]+\.lock", script),
        *re.findall(r"\.ci/\w+\.py", script),
        "benchmarks",
        "pyproject.toml",
    }
    assert needed - {"uv.lock", "setuptools.lock"} <= set(kept)
    links = {link.name for link in (ROOT / "eagleray").iterdir() if link.is_symlink()}
    assert links <= set(kept)  # the package is a folder of links
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (installed,) = re.findall(r"\$\{EXTRAS:-([^}]+)\}", script)
    assert f'ARG EXTRAS="{installed}"\n' in (DEPLOY / "Dockerfile").read_text()
    assert set(installed.split()) <= set(extras)
    lock = (ROOT / "requirements.lock").read_text()
    for requirement in (one for extra in installed.split() for one in extras[extra]):
        name = re.split(r"[\[<>=]", requirement)[0]
        assert re.search(rf"^{name}==", lock, re.MULTILINE), requirement


def test_compose_runs_a_project_that_its_servers_can_carry(tmp_path: Path) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    ours_ = services["eagleray"]
    assert ours_["command"][0] == "eagleray"
    check_command(ours_["command"][1:])
    assert all(read_by_somebody(name) for name in ours_["environment"])
    config = load_config(DEPLOY / "compose" / "eagleray.yaml", environ=ours_["environment"])
    assert set(load_streams(config)) == {"plays"}
    mounts = dict(volume.split(":")[:2] for volume in ours_["volumes"])
    assert mounts["./compose"] == "/project" and mounts["data"] == str(config.data_dir)
    assert ours_["ports"] == [f"127.0.0.1:{config.edge.port}:{config.edge.port}"]
    assert [broker.partition(":")[0] for broker in config.log.brokers] == ["kafka"]
    assert str(config.lake.s3.endpoint) == "http://s3:7070" and ":7070" in services["s3"]["command"]
    assert config.catalog_uri.partition("@")[2] == "postgres/lake"
    assert set(ours_["depends_on"]) == {"kafka", "postgres", "s3"}
    assert float(ours_["stop_grace_period"].rstrip("s")) > config.edge.drain_timeout_s + 30 + DRAIN_GRACE_S
    named = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    assert {name for name in named if not name.startswith(".")} == set(compose["volumes"])
    assert all((DEPLOY / name).exists() for name in named if name.startswith("."))
    prometheus = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text())
    assert prometheus["scrape_configs"][0]["static_configs"][0]["targets"] == [f"eagleray:{config.edge.port}"]
    mounted = dict(volume.split(":")[:2] for volume in services["prometheus"]["volumes"])
    assert mounted["./prometheus"] == "/etc/prometheus/rules"
    assert all((DEPLOY / "prometheus" / Path(file).name).exists() for file in prometheus["rule_files"])


def test_the_unit_of_systemd_starts_up_and_gives_a_drain_its_time() -> None:
    unit = dict(
        line.split("=", 1)
        for line in (DEPLOY / "systemd" / "eagleray.service").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    program, *words = shlex.split(unit["ExecStart"])
    assert program == "/opt/eagleray/bin/eagleray"
    check_command(words)
    assert words[words.index("--data") + 1] == f"/var/lib/{unit['StateDirectory']}"
    assert float(unit["TimeoutStopSec"]) > EdgeConfig().drain_timeout_s + 30 + DRAIN_GRACE_S
    assert unit["RestartPreventExitStatus"] == "2" and unit["KillMode"] == "mixed"


def test_the_schema_of_the_examples_is_that_of_the_benchmarks() -> None:
    schema = (ROOT / "benchmarks" / "game" / "plays.schema.json").read_bytes()
    for copy in (DEPLOY / "compose", KUBERAY / "base" / "project"):
        assert (copy / "plays.schema.json").read_bytes() == schema
