# Every target makes .venv and installs what it needs; there is no other step.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SEED ?= 1
MINUTES ?= 5
WORKERS ?= 8
# Two processes: most tests wait for other processes. Files stay whole, so that their servers are started once.
# A minute of chaos wants the machine for itself, so it comes afterwards.
CHAOS_SHORT := tests/chaos/test_short_form.py
PYTEST_ARGS ?= -n 2 --dist loadfile --ignore=$(CHAOS_SHORT)

.DEFAULT_GOAL := help
.PHONY: help demo demo-pods up test check lint types bench chaos chaos-short mutation conformance system clean

help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	@# torch first and by this pin: a range would fetch the newest build with gigabytes of CUDA
	$(BIN)/python -m pip install -q 'torch==2.13.0'
	$(BIN)/python -m pip install -q -e '.[local,train,dev]'
	@touch $@

demo: $(READY) ## Local stack, a real LoRA training and a synthetic run, watched and checked (about a minute)
	@$(BIN)/pod-worker demo

demo-pods: $(READY) ## The same run through a rented pod: fake RunPod, real worker process in the pod
	@$(BIN)/pod-worker demo-pods

up: $(READY) ## The local stack in the foreground, until Ctrl-C (PORT=8787 insists on a port)
	@$(BIN)/pod-worker up $(if $(PORT),--port $(PORT))

test: $(READY) system ## All tests against a real MongoDB, a real S3 server, real processes and signals
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	$(BIN)/python -m pytest $(CHAOS_SHORT)

check: lint types test ## What CI runs: ruff, mypy --strict, the tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

bench: $(READY) ## Speed beside peers and physical limits, as ratios measured in one run
	$(BIN)/python -m benchmarks

chaos: $(READY) ## Faults for MINUTES on WORKERS workers, replayable by SEED; ends with the promises as a table
	$(BIN)/python -m chaos --seed $(SEED) --minutes $(MINUTES) --workers $(WORKERS)

chaos-short: $(READY) ## One seeded minute of faults, every kind at least once, as a test
	$(BIN)/python -m pytest $(CHAOS_SHORT)

mutation: $(READY) system ## Remove each guard in turn; some test must turn red for every one
	$(BIN)/python tests/mutation/run.py

conformance: $(READY) ## Real RunPod clients (their SDKs and MCP servers) against the fake RunPod
	@bash scripts/conformance_runpod.sh

system: ## sshd, for the tests that speak to a pod (needs root or an installed openssh-server)
	@bash scripts/install_sshd.sh

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
