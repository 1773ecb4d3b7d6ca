# Every target creates .venv and installs what it needs, from the hashed locks in requirements/.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
SEED ?= 1
MINUTES ?= 5
WORKERS ?= 8
# A package index with CPU builds of torch, tried first on a machine without an NVIDIA GPU. See CONTRIBUTING.md.
TORCH_CPU_INDEX ?=
export TORCH_CPU_INDEX
# Packages are installed without byte code: the first import writes it, and later processes start in half the time.
unexport PYTHONDONTWRITEBYTECODE

# What a target needs: LOCAL runs the stack and the command line, TRAIN adds torch, DEV adds the tools, ALL has
# these and what research runs need.
LOCAL := $(VENV)/.ready-local
TRAIN := $(VENV)/.ready-train
RESEARCH := $(VENV)/.ready-research
DEV := $(VENV)/.ready-dev
ALL := $(VENV)/.ready

# One process more than the usual two cores: most tests wait for other processes. Files stay whole, so that their
# servers are started once.
TEST_PROCESSES ?= 3
# A minute of chaos needs the whole machine, so it runs after the other tests.
CHAOS_SHORT := tests/chaos/test_short_form.py
# Long files come first and short ones last, so that all processes end at the same time.
PYTEST_ARGS ?= -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --ignore=$(CHAOS_SHORT) \
  tests/acceptance tests/training tests/scripts tests
# Pure tests and tests of the store; none needs torch, S3 or sshd.
FAST := tests/core tests/store tests/outbox tests/stages tests/contract tests/process tests/mutation \
  tests/pods/launch tests/fake_runpod/cloud tests/fake_runpod/billing tests/test_architecture.py tests/test_config.py \
  tests/scripts/test_requirements.py tests/scripts/test_install_packages.py
# `make test FILE=... ARGS=...` runs one file (or file::test) in one process, without torch unless it is installed.
FILE ?=
ARGS ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help up demo demo-research demo-pods latex train install check lint format types test test-fast coverage hooks \
  bench bench-research chaos chaos-short chaos-command mutation conformance system lock clean

help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nVariables: PORT (up); MODEL (demo-research); FILE, ARGS, TEST_PROCESSES (test); SEED, MINUTES, WORKERS (chaos); PYTHON, TORCH_CPU_INDEX.\n'

##@ Try it
up: $(LOCAL) ## Run the local stack until Ctrl-C; PORT=8787 requires that port (no torch needed)
	@$(BIN)/pod-worker up $(if $(PORT),--port $(PORT))

demo: $(TRAIN) ## Run a LoRA training and a synthetic run on a local stack, and check the result
	@$(BIN)/pod-worker demo

demo-research: $(RESEARCH) latex ## Take a hypothesis to a reviewed paper; MODEL=name asks a real language model
	@$(BIN)/pod-worker demo-research $(if $(MODEL),--model $(MODEL))

demo-pods: $(LOCAL) ## Run a synthetic run through a rented pod of the fake RunPod
	@$(BIN)/pod-worker demo-pods

##@ Install into .venv (every target installs what it needs)
train: $(TRAIN) ## Install the local stack and the training libraries, torch included
install: $(ALL) ## Install everything: local stack, training libraries, developer tools

##@ Test
check: lint types test ## Run what CI runs: ruff, mypy --strict, all tests

lint: $(DEV) ## Check style and format with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) $(RESEARCH) ## Check types with mypy
	$(BIN)/mypy

ifdef FILE
test: $(DEV) ## Run all tests, or one file: make test FILE=tests/core/test_run.py
	$(PYTEST) $(ARGS) $(FILE)
else
test: $(ALL) system
	$(PYTEST) $(PYTEST_ARGS) $(ARGS)
	$(PYTEST) $(CHAOS_SHORT)
endif

test-fast: $(DEV) ## Run the pure tests and those of the store: under a minute, no torch needed
	$(PYTEST) -n $(TEST_PROCESSES) --dist loadfile -m 'not slow' $(ARGS) $(FAST)

coverage: $(ALL) system ## Run the tests with coverage, subprocesses included; report in .coverage_html
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(if $(FILE),$(FILE),$(PYTEST_ARGS)) $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report

chaos-short: $(ALL) ## Run one seeded minute of faults as a test, every kind at least once
	$(PYTEST) $(CHAOS_SHORT)

chaos: $(ALL) ## Inject faults for MINUTES into WORKERS workers, replayable by SEED
	$(BIN)/python -m chaos --seed $(SEED) --minutes $(MINUTES) --workers $(WORKERS)

chaos-command: $(DEV) ## Kill a checkpointing command 50 times at random moments; SEED chooses them
	POD_WORKER_KILLS=50 POD_WORKER_KILLS_SEED=$(SEED) $(PYTEST) -s tests/stages/test_command_kills.py

mutation: $(ALL) system ## Remove each guard in turn; a test must fail for every one
	$(BIN)/python tests/mutation/run.py

conformance: $(ALL) ## Run real RunPod clients (SDKs and MCP servers) against the fake RunPod
	@bash scripts/conformance_runpod.sh

bench: $(ALL) ## Measure speed as ratios to peers and physical limits, in one run
	$(BIN)/python -m benchmarks

bench-research: $(RESEARCH) ## Measure a research run's search beside a scheduler with a barrier and cold starts
	$(BIN)/python -m benchmarks research

##@ Maintain
format: $(DEV) ## Format the code and apply ruff's safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: $(DEV) ## Install the git hooks: ruff and mypy before each commit
	$(BIN)/pre-commit install

lock: $(DEV) ## Write requirements/*.lock from pyproject.toml (ARGS=--upgrade: new versions)
	bash scripts/lock_requirements.sh $(ARGS)

system: ## Install sshd for the SSH tests and LaTeX for papers (needs root, or both installed)
	@bash scripts/install_sshd.sh
	@bash scripts/install_latex.sh

latex: ## Install LaTeX for papers (needs root, or an installed LaTeX)
	@bash scripts/install_latex.sh

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* .coverage_html

# ── installation ───────────────────────────────────────────────────────────────────────────────────────────

INSTALL := bash scripts/install_packages.sh
INPUTS := pyproject.toml requirements/core.lock scripts/install_packages.sh

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] + ". Fix: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(LOCAL): $(INPUTS) requirements/local.lock | $(BIN)/python
	@$(INSTALL) local
	@touch $@

$(TRAIN): $(INPUTS) requirements/local.lock requirements/train.lock requirements/torch.txt | $(BIN)/python
	@$(INSTALL) local train
	@touch $@ $(LOCAL)

$(RESEARCH): $(INPUTS) requirements/local.lock requirements/research.lock | $(BIN)/python
	@$(INSTALL) local research
	@touch $@ $(LOCAL)

$(DEV): $(INPUTS) requirements/local.lock requirements/dev.lock | $(BIN)/python
	@$(INSTALL) local dev
	@touch $@ $(LOCAL)

$(ALL): $(INPUTS) requirements/local.lock requirements/train.lock requirements/research.lock requirements/dev.lock requirements/torch.txt | $(BIN)/python
	@$(INSTALL) local train research dev
	@touch $@ $(LOCAL) $(TRAIN) $(RESEARCH) $(DEV)
