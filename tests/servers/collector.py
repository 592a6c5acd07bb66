"""The OpenTelemetry Collector, built from its Go modules: OTLP in, batches, a file out. Four minutes of CPU, once."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.servers.installed import installed, run
from tests.servers.process import Server, free_port, running

VERSION = "v0.161.0"
STABLE = "v1.67.0"  # of the same release
CORE = "go.opentelemetry.io/collector"
CONTRIB = "github.com/open-telemetry/opentelemetry-collector-contrib"
PARTS = ("otelcol", "service", "processor/batchprocessor", "receiver/otlpreceiver")
STABLE_PARTS = ("component", "confmap", "confmap/provider/fileprovider", "exporter", "processor", "receiver")
PROGRAM = """
package main

import (
	"log"

	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/batchprocessor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

func main() {
	var parts otelcol.Factories
	parts.Telemetry = otelconftelemetry.NewFactory()
	parts.Receivers, _ = otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory())
	parts.Processors, _ = otelcol.MakeFactoryMap[processor.Factory](batchprocessor.NewFactory())
	parts.Exporters, _ = otelcol.MakeFactoryMap[exporter.Factory](fileexporter.NewFactory())
	var set otelcol.CollectorSettings
	set.BuildInfo = component.BuildInfo{Command: "collector", Version: "0.161.0"}
	set.Factories = func() (otelcol.Factories, error) { return parts, nil }
	set.ConfigProviderSettings.ResolverSettings = confmap.ResolverSettings{
		DefaultScheme: "file", ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory()},
	}
	if err := otelcol.NewCommand(set).Execute(); err != nil {
		log.Fatal(err)
	}
}
"""
CONFIGURATION = """
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: "127.0.0.1:{grpc}"}}
      http: {{endpoint: "127.0.0.1:{http}"}}
processors: {{batch: {{timeout: 200ms}}}}
exporters: {{file: {{path: "{file}", flush_interval: 200ms}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [file]}}
    logs: {{receivers: [otlp], processors: [batch], exporters: [file]}}
"""


def program() -> Path:
    """The Collector, built where it is not there yet; the test is skipped where it cannot be."""

    def make(place: Path) -> None:
        (place / "main.go").write_text(PROGRAM)
        run("go", "mod", "init", "servers/collector", cwd=place)
        modules = [f"{CORE}/{part}@{VERSION}" for part in PARTS]
        modules += [f"{CORE}/{part}@{STABLE}" for part in STABLE_PARTS]
        run("go", "get", *modules, f"{CONTRIB}/exporter/fileexporter@{VERSION}", cwd=place)
        run("go", "mod", "tidy", cwd=place)
        run("go", "build", "-p", "1", "-trimpath", "-ldflags", "-s -w", "-o", "collector", ".", cwd=place)

    return installed(f"otel-collector-{VERSION}", make) / "collector"


class Collector(Server):
    """Listens for OTLP on two ports; `port` is that of HTTP."""

    def __init__(self, directory: Path) -> None:
        """Nothing is started yet."""
        self.grpc_port, port = free_port(), free_port()
        self._file = directory / "received.json"
        configuration = directory / "collector.yaml"
        configuration.write_text(CONFIGURATION.format(grpc=self.grpc_port, http=port, file=self._file))
        super().__init__([str(program()), "--config", str(configuration)], port, directory / "collector.log")

    def spans(self, trace: str) -> dict[str, Any]:
        """The spans of a trace that were received, by name."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        groups = [group for line in lines for group in json.loads(line).get("resourceSpans", ())]
        found = [span for group in groups for scope in group["scopeSpans"] for span in scope["spans"]]
        return {span["name"]: span for span in found if span["traceId"] == trace}

    def logs(self) -> list[Any]:
        """The log records that were received."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        groups = [group for line in lines for group in json.loads(line).get("resourceLogs", ())]
        return [record for group in groups for scope in group["scopeLogs"] for record in scope["logRecords"]]


def collector(directory: Path) -> AbstractContextManager[Collector]:
    """A running one; ended whatever happens inside."""
    return running(Collector(directory))
