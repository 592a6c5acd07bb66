# Eagleray's recipes; `make` alone explains them. They install into .venv first, from requirements.lock, once.
# SHELL options: a recipe stops at its first failing command.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench bench-etl clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export RAY_USAGE_STATS_ENABLED := 0
export OTEL_SDK_DISABLED := true

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

install: $(STAMP)  ## the package and its tools into .venv, from requirements.lock with hashes

demo: $(STAMP)  ## half a minute of game events, from HTTP to SQL, on this machine
	$(BIN)/eagleray demo

test: $(STAMP)  ## every test; one file: make test TESTS=tests/unit/test_cli_send.py
	$(BIN)/pytest $(TESTS)

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
