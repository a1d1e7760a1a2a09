# One command each; every one sets up .venv first when it is needed and does nothing twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Whatever the shell says: tests start many processes that import the same, and compile it once.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help chromium demo check fix test test-quick test-thorough test-operations test-production storage-test messages bench clean clean-ledger

help:  ## Show what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.installed  ## Run the main job: ten pictures from five photographs, and a gallery
	$(BIN)/comfyline run configs/pipelines/office-scenes.yaml

check: $(VENV)/.installed-dev  ## Check style, types, imports: seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/.installed-dev  ## Mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(VENV)/.installed-dev  ## Run the tests against real servers: five and a half minutes on two processors
	$(PYTEST) --numprocesses 4

test-quick: $(VENV)/.installed-dev  ## Run the tests that need no stack: less than a minute
	$(PYTEST) --numprocesses 2 -m 'not server and not thorough and not production'

test-thorough: $(VENV)/.installed-dev  ## Run more of the same: every crash point, 1000 examples each
	HYPOTHESIS_PROFILE=thorough $(PYTEST) --numprocesses 4 -m 'not production'

test-operations: $(VENV)/.installed-dev  ## Run every command block of docs/operations.md, in order: three minutes
	$(PYTEST) -m production tests/production/test_operations_page.py

test-production: $(VENV)/.installed-dev chromium  ## Run a whole site with its workers, and a browser: six minutes
	$(PYTEST) --numprocesses 4 -m production

storage-test: $(VENV)/.installed-dev  ## Try a bucket of your own: BUCKET=s3://name/prefix, keys in AWS_*
	COMFYLINE_TEST_BUCKET='$(or $(BUCKET),$(error say BUCKET=s3://name/prefix))' \
		$(PYTEST) tests/storage/test_any_bucket.py

messages: $(VENV)/.installed-dev  ## Print every sentence that a person can meet, to be read in one go
	@$(BIN)/python -m tests.messages.collect

bench: $(VENV)/.installed-dev  ## Measure against plain clients, side by side
	$(BIN)/python -m benchmarks

clean:  ## Stop the local stack and remove what can be made again; what was paid for stays
	@if [ -x $(BIN)/comfyline ]; then $(BIN)/comfyline down; fi
	rm -rf $(addprefix .comfyline/,logs thumbnails copies known-files.sqlite3* prefect prefect-client)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@for kept in outputs .comfyline/*; do if [ -e "$$kept" ]; then echo "kept: $$kept"; fi; done
	@echo "make clean-ledger removes the ledger, and says first what would be lost with it."

clean-ledger: $(VENV)/.installed  ## Remove the ledger: says what would be lost, and asks; or CONFIRM=yes
	@$(BIN)/comfyline ledger remove $(if $(filter yes,$(CONFIRM)),--yes)

chromium:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && \
		apt-get install -y -qq chromium >/dev/null; } || \
		{ echo "The tests of Prefect's page need Chromium: apt-get install chromium"; exit 1; }

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV); this takes a minute or two, once."
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV) with what tests need; this takes a minute or two, once."
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/.installed $@
