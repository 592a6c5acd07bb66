# Eagleray's recipes; `make` alone explains them. They install into .venv first, from requirements.lock, once.
# SHELL options: a recipe stops at its first failing command.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-nightly lint bench bench-etl clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS := 3
PARALLEL := -n $(WORKERS) --dist loadfile
export RAY_USAGE_STATS_ENABLED := 0
export OTEL_SDK_DISABLED := true

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

install: $(STAMP)  ## the package and its tools into .venv, from requirements.lock with hashes

demo: $(STAMP)  ## half a minute of game events, from HTTP to SQL, on this machine
	$(BIN)/eagleray demo

# Unit and contract tests share no platform, so a file runs on any of WORKERS: they wait as often as they compute.
# Tests of a running platform have the machine to themselves.
test: $(STAMP)  ## the whole truth of one machine; one file: make test TESTS=tests/unit/test_cli_send.py
ifdef TESTS
	$(BIN)/pytest $(TESTS)
else
	$(BIN)/pytest $(PARALLEL) tests/unit tests/contract
	$(BIN)/pytest tests/integration tests/security tests/faults
endif

test-fast: $(STAMP)  ## unit and contract tests, some two minutes
	$(BIN)/pytest $(PARALLEL) tests/unit tests/contract

test-nightly: $(STAMP)  ## every property test with many more examples: hours
	$(BIN)/pytest --hypothesis-profile=nightly --timeout 7200 tests/unit

lint: $(STAMP)  ## style, types and the direction of imports
	$(BIN)/ruff check --no-cache .  # a cached verdict survives changes in other files
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

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
