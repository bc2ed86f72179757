# Two commands: `make demo` and `make test`. Both set up .venv first, from the pinned, hash-checked requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := runs/demo

.PHONY: help setup demo test lint unit integration pythons long lock clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(INSTALLED)  ## set up .venv

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	awk '/^uv==/ {found = 1} found {print} found && !/\\$$/ {exit}' requirements.lock > $(VENV)/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.lock
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --require-hashes --compile-bytecode -r requirements.lock
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: setup  ## draw chest phantoms and run 3 folds x 4 variants on them, on a local Ray
	$(BIN)/cxrdist phantoms $(DEMO)/images
	$(BIN)/cxrdist run jobs/demo.yaml --images $(DEMO)/images --run-dir $(DEMO)/study

test: lint unit integration  ## everything that .ci/run checks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: setup  ## the quick tests alone: no Ray, half a minute on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit

integration: setup  ## the others: real images and networks, drawn pages, a real browser; then, one at a time, Ray
	$(BIN)/python -m pytest -m "not long and not alone" -n 2 --dist loadfile tests/integration
	$(BIN)/python -m pytest -m "alone and not long" tests/integration

pythons: setup  ## the quick tests on the other Pythons that are supported, where this machine has them
	.ci/pythons $(VENV)

long: setup  ## the tests that `make test` has no time for: a simulated cluster, more of what can fail and be killed
	$(BIN)/python -m pytest -m long tests/integration

lock: setup  ## pin again, to the newest versions allowed
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--group dev --upgrade --quiet pyproject.toml --output-file requirements.lock

clean:  ## remove what the targets above made
	rm -rf $(VENV) $(DEMO)
