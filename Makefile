# Two commands matter: `make run` starts the product, `make test` proves it. Both set up what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help run demo test test-all test-wheel bench lint format clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# Installed into a fresh folder's stamp last, so that an interrupted installation is taken up again, not believed.
$(VENV)/run.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.10 to 3.13 is needed, e.g. make run PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

run: $(VENV)/run.stamp ## Serve Label Studio on port 9090 with the demo model, no download needed
	$(BIN)/python -m backend serve

demo: $(VENV)/run.stamp .venv-label-studio/stamp ## The same beside a Label Studio of its own: a project to click in
	$(BIN)/python -m backend demo

# Label Studio lives in an environment of its own: its pins are not ours.
.venv-label-studio/stamp: tests/e2e/requirements-label-studio.txt
	@test -x .venv-label-studio/bin/python || $(PYTHON) -m venv .venv-label-studio
	.venv-label-studio/bin/python -m pip install --quiet --disable-pip-version-check -r tests/e2e/requirements-label-studio.txt
	@touch $@

# Where it may, the machine gets a redis-server; elsewhere the tests that need one say that they were skipped.
.PHONY: redis
redis:
	@command -v redis-server >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update && apt-get -qq install -y redis-server >/dev/null; } \
		|| echo "No redis-server here: the tests that need one are skipped." >&2

test: redis $(VENV)/dev.stamp ## Lint, check types, run the tests (minutes, no network)
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -m "not reference and not browser and not slow"

test-wheel: $(VENV)/dev.stamp ## Build the wheel and test it where the source tree is not to be seen (a minute, no network)
	$(BIN)/python -m tests.wheel

test-all: redis $(VENV)/dev.stamp $(VENV)/reference.stamp .venv-label-studio/stamp ## All tests, also those against reference implementations
	LABEL_STUDIO_PYTHON=$${LABEL_STUDIO_PYTHON:-$(CURDIR)/.venv-label-studio/bin/python} $(BIN)/python -m pytest
	$(BIN)/python -m tests.wheel

$(VENV)/reference.stamp: tests/reference/requirements.txt tests/e2e/requirements.txt $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/reference/requirements.txt \
		-r tests/e2e/requirements.txt
	@test -x .venv-paddlex/bin/python || $(PYTHON) -m venv .venv-paddlex
	.venv-paddlex/bin/python -m pip install --quiet --disable-pip-version-check -r tests/reference/requirements-paddlex.txt
	@touch $@

bench: $(VENV)/dev.stamp $(VENV)/reference.stamp .venv-label-studio/stamp ## Measure speed against the reference implementations
	$(BIN)/python -m tests.benchmarks

lint: $(VENV)/dev.stamp ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp ## Rewrite in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what the other commands made
	rm -rf .venv .venv-* out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
