"""OpenLineage events of runs: which tables a job read and made, with their columns, sizes and snapshots.

Called by `courier` alone, with the library `openlineage-python` (extra `lineage`). A job is named like itself in the
namespace `jobs.lineage.namespace`, a table `namespace.table` in the same; a node of a run is an OpenLineage run, whose
parent is the whole run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from eagleray.cluster.clock import iso
from eagleray.cluster.config import Config
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.cluster.sections import LineageConfig
from eagleray.jobs.notify.outbox import Message

TIMEOUT_S = 10.0
PRODUCER = "https://pypi.org/project/eagleray"
_STATES = {"start": "START", "complete": "COMPLETE", "fail": "FAIL"}


def emit(config: Config, message: Message, facts: Mapping[str, Any]) -> None:
    """Send one event; raises ConfigError without a secret that is declared, and what `requests` raises."""
    lineage = config.jobs.lineage
    if lineage is None:
        return
    event = _event(config, lineage, message, facts)
    token = lineage.token("jobs.lineage")
    client = _client(
        {
            "type": "http",
            "url": lineage.address("jobs.lineage"),
            "endpoint": lineage.endpoint,
            "timeout": TIMEOUT_S,
            "retry": {"total": 0},  # the outbox tries again
            **({"sslContext": {"caCertPath": str(lineage.ca)}} if lineage.ca else {}),
            **({"auth": {"type": "api_key", "apiKey": token}} if token else {}),
        }
    )
    try:
        client.emit(event)
    finally:
        client.close()


def _client(transport: dict[str, Any]) -> Any:
    from openlineage.client import OpenLineageClient
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    return OpenLineageClient(transport=HttpTransport(HttpConfig.from_dict(transport)))


def _event(config: Config, lineage: LineageConfig, message: Message, facts: Mapping[str, Any]) -> Any:
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
    from openlineage.client.generated import error_message_run, job_type_job, parent_run

    job_facets: dict[str, Any] = {"jobType": job_type_job.JobTypeJobFacet("BATCH", "EAGLERAY", "JOB")}
    whole = str(uuid5(NAMESPACE_URL, f"eagleray:run:{message.run}"))
    run_facets: dict[str, Any] = {
        "parent": parent_run.ParentRunFacet(
            parent_run.Run(whole), parent_run.Job(lineage.namespace, f"run.{message.run}")
        )
    }
    if message.event == "fail" and facts.get("reason"):
        run_facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(str(facts["reason"])[:2_000], "SQL")
    read = facts.get("inputs") or dict.fromkeys(message.inputs)
    made = facts.get("output")
    tables = dict(_tables(config, {*read, *([made] if made else [])}))
    inputs = [_input(lineage, name, tables.get(name), version) for name, version in read.items()]
    outputs = [_output(lineage, made, tables.get(made), facts)] if made else []
    at_us = facts.get("ended_us") if message.event != "start" else facts.get("started_us")
    return RunEvent(
        eventTime=iso(at_us or message.created_us),
        producer=PRODUCER,
        run=Run(str(uuid5(NAMESPACE_URL, f"eagleray:node:{message.run}:{message.number}")), run_facets),
        job=Job(lineage.namespace, message.job, job_facets),
        eventType=RunState[_STATES[message.event]],
        inputs=inputs,
        outputs=outputs,
    )


def _tables(config: Config, names: set[str]) -> Iterator[tuple[str, Any]]:
    """By table, the facet of its columns as they are now; tables that are not there have none."""
    from openlineage.client.generated.schema_dataset import SchemaDatasetFacet, SchemaDatasetFacetFields

    for name, table in open_snapshots(config).pin(sorted(names)).items():
        fields = [
            SchemaDatasetFacetFields(name=field.name, type=str(field.field_type), description=field.doc)
            for field in table.iceberg().schema().fields
        ]
        yield name, SchemaDatasetFacet(fields=fields)


def _facets(schema: Any, snapshot: Any) -> dict[str, Any]:
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet

    found: dict[str, Any] = {} if schema is None else {"schema": schema}
    if snapshot is not None:
        found["version"] = DatasetVersionDatasetFacet(str(snapshot))
    return found


def _input(lineage: LineageConfig, name: str, schema: Any, read: Any) -> Any:
    from openlineage.client.event_v2 import InputDataset

    snapshot = read.get("snapshot") if isinstance(read, Mapping) else None
    return InputDataset(lineage.namespace, name, facets=_facets(schema, snapshot))


def _output(lineage: LineageConfig, name: str, schema: Any, facts: Mapping[str, Any]) -> Any:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.generated.output_statistics_output_dataset import OutputStatisticsOutputDatasetFacet

    statistics: dict[str, Any] = {}
    if facts.get("rows") is not None:
        counted = OutputStatisticsOutputDatasetFacet(facts["rows"], facts.get("bytes"), facts.get("files"))
        statistics = {"outputStatistics": counted}
    facets = _facets(schema, facts.get("snapshot_id"))
    return OutputDataset(lineage.namespace, name, facets=facets, outputFacets=statistics)
