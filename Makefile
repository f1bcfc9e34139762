# The two main commands: `make demo` (from nothing to a report) and `make test` (from nothing to green tests).
PYTHON ?= python3.11
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
VENV := test -x $(BIN)/python || $(PYTHON) -m venv .venv
# Modules are compiled when they are first imported: a fifth of them ever are.
INSTALL := $(BIN)/python scripts/install.py --constraint $(CONSTRAINTS)
PORT ?= 4277
JOBS ?= 2
# One file's tests stay in one process, which makes their trainings once; in this order the long files come first.
SIDE_BY_SIDE := --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
# Compiled modules are kept, whatever the environment says: tests start hundreds of short processes.
export PYTHONDONTWRITEBYTECODE :=
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help demo test pytest test-slow coverage docs lint bench-gpu serve-prefect clean
.DEFAULT_GOAL := help

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

.venv/installed: pyproject.toml $(CONSTRAINTS)
	@echo "installing into .venv ..."
	@$(VENV)
	@$(INSTALL) --editable .
	@touch $@

.venv/installed-dev: pyproject.toml $(CONSTRAINTS)
	@echo "installing into .venv with all extras ..."
	@$(VENV)
	@$(INSTALL) --editable '.[dev,emoji,energy,huggingface,lite,minilm,onnx,openlineage,postgresql,sbom,signing]'
	@touch .venv/installed $@

data/catalog.yaml: .venv/installed
	@$(BIN)/mlim catalog synthesize --out data

demo: .venv/installed data/catalog.yaml ## from nothing to a report: the whole pipeline on the embedded catalog
	@$(BIN)/mlim run --catalog data/catalog.yaml --recipe demo

test: .venv/installed-dev ## unit and integration tests on JOBS=2 processes, beside them linters and documentation
	@$(MAKE) --no-print-directory --jobs=2 pytest lint docs

pytest: .venv/installed-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" $(SIDE_BY_SIDE)

test-slow: .venv/installed-dev ## the long tests too, and more examples of each property
	@$(BIN)/python -m pytest --hypothesis-profile thorough

coverage: .venv/installed-dev ## the unit tests, with the coverage of every module
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit --cov --cov-report=term $(SIDE_BY_SIDE)

docs: .venv/installed-dev ## the documentation site in site/; a broken link ends it
	@PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build  # not --quiet: it would hide what --strict counts

lint: .venv/installed-dev ## ruff, mypy, import-linter: the hooks of pre-commit, over all files
	@$(BIN)/pre-commit run --all-files

bench-gpu: ## ten minutes on a CUDA device: rungs, losses by precision, scoring, memory, decoding (docs/performance.md)
	@PYTHONPATH=. $(PYTHON) benchmarks/gpu.py measure

serve-prefect: .venv/installed ## server, work pool, GPU limit, deployments and worker on loopback
	@MLIM_ROOT="$(CURDIR)" PORT=$(PORT) $(BIN)/python -m flows.server

clean: ## remove results and the environment (data, tracked runs and what mlim did not make stay)
	@for mark in build/*/.mlim-folder; do if test -f "$$mark"; then rm -rf -- "$$(dirname "$$mark")"; fi; done
	@rmdir build 2>/dev/null || true
	rm -rf site .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
