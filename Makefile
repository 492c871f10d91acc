# Two commands matter: `make run` starts the product, `make test` proves it. Both set up what they need.
# Another interpreter: make run PYTHON=/usr/bin/python3.12. A clone that cannot be written to: make run CACHE=/some/folder.
PYTHON ?= $(or $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.10 python3,$(shell command -v $(name)))),python3.11)
CACHE ?= .
VENV := $(CACHE)/.venv
BIN := $(VENV)/bin
LABEL_STUDIO_VENV := $(CACHE)/.venv-label-studio
PADDLEX_VENV := $(CACHE)/.venv-paddlex
TOOLS_VENV := $(CACHE)/.venv-tools
SBOM_VENV := $(CACHE)/.venv-sbom
BY_FILE := --dist loadfile --no-loadscope-reorder
.DEFAULT_GOAL := help
# Compiled modules are kept whatever the environment says: tests start a hundred processes, and each would compile them.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help run demo test test-all test-wheel test-label-studio-versions bench lint format lock sbom clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-26s %s\n", $$1, $$2}'

# What a stamp is, backend/demo/environment.py says, which makes all environments. One whose interpreter is gone has none.
IGNORED := $(foreach made,$(VENV) $(LABEL_STUDIO_VENV) $(PADDLEX_VENV) $(TOOLS_VENV) $(SBOM_VENV),$(shell test -x $(made)/bin/python || rm -f $(made)/*stamp))

define fresh
	@mkdir -p "$(CACHE)" && test -w "$(CACHE)" \
		|| { echo "Nothing can be written to $(abspath $(CACHE)); try make $(or $(MAKECMDGOALS),run) CACHE=/some/folder" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.10 to 3.13 is needed, e.g. make run PYTHON=python3.11" >&2; exit 1; }
endef

define install
	@$(PYTHON) -m backend.demo.environment $@ $(1)
endef

# Locked versions with their hashes. With a registry that does not have them, the tested ranges: make run REQUIREMENTS=requirements.txt
REQUIREMENTS ?= requirements.lock

$(VENV)/run.stamp: $(REQUIREMENTS)
	$(fresh)
	$(call install,$(if $(filter %.lock,$(REQUIREMENTS)),--require-hashes )-r $(REQUIREMENTS))

$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/run.stamp
	$(call install,-r requirements-dev.txt)

# Weights other than the demo model's, by name or path: make run WEIGHTS=mobile_sam downloads them once.
WEIGHTS ?=
WITH_WEIGHTS := $(if $(WEIGHTS), --weights "$(WEIGHTS)")
# The demo's detector finds words on drawn shapes; beside other weights there is none unless PADDLE_SAM_DETECTOR names it.
WITH_DETECTOR := $(if $(WEIGHTS)$(PADDLE_SAM_WEIGHTS)$(PADDLE_SAM_DETECTOR),,PADDLE_SAM_DETECTOR=YOLO-World-demo )

run: $(VENV)/run.stamp ## Serve Label Studio on port 9090 with the demo model, or WEIGHTS=mobile_sam (downloads packages once)
	@$(WITH_DETECTOR)$(BIN)/python -m backend serve$(WITH_WEIGHTS)

demo: $(VENV)/run.stamp $(LABEL_STUDIO_VENV)/stamp ## The same beside a Label Studio of its own, downloaded once too: a project to click in
	@$(BIN)/python -m backend demo --folder $(CACHE)/.demo --label-studio-python $(LABEL_STUDIO_VENV)/bin/python$(WITH_WEIGHTS)

# Label Studio lives in an environment of its own: its pins are not ours.
$(LABEL_STUDIO_VENV)/stamp: backend/demo/requirements-label-studio.txt
	$(fresh)
	$(call install,--use-pep517 -r backend/demo/requirements-label-studio.txt)

# Where it may, the machine gets a redis-server; elsewhere the tests that need one say that they were skipped.
.PHONY: redis
redis:
	@command -v redis-server >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "Installing redis-server ..." \
			&& apt-get -qq update && apt-get -qq install -y redis-server >/dev/null; } \
		|| echo "No redis-server here: the tests that need one are skipped." >&2

# Types are checked on one core, so that happens beside the tests; what it says is shown below theirs.
test: redis $(VENV)/dev.stamp ## Lint, check types, run the tests (minutes, no network)
	@$(MAKE) --no-print-directory lint >"$(VENV)/lint.log" 2>&1 & lint=$$!; \
	$(BIN)/python -m pytest -n 3 $(BY_FILE) -m "not reference and not browser and not slow"; tests=$$?; \
	wait $$lint; lint=$$?; cat "$(VENV)/lint.log"; exit $$((tests | lint))

test-wheel: $(VENV)/dev.stamp ## Build the wheel and test it where the source tree is not to be seen (a minute, no network)
	$(BIN)/python -m tests.support.wheel

test-all: redis $(VENV)/dev.stamp $(VENV)/reference.stamp $(LABEL_STUDIO_VENV)/stamp ## All tests, also those against reference implementations
	$(BIN)/python -m pytest -n 2 $(BY_FILE) -m "not browser"
	LABEL_STUDIO_PYTHON=$${LABEL_STUDIO_PYTHON:-$(abspath $(LABEL_STUDIO_VENV))/bin/python} $(BIN)/python -m pytest -m browser
	$(BIN)/python -m tests.support.wheel

test-label-studio-versions: $(VENV)/dev.stamp $(VENV)/reference.stamp ## The core of the browser tests against other releases (half an hour)
	$(BIN)/python -m tests.e2e.label_studio_versions --folder $(CACHE)

$(VENV)/torch.stamp: tests/reference/requirements.txt tests/e2e/requirements.txt $(VENV)/dev.stamp
	$(call install,-r tests/reference/requirements.txt -r tests/e2e/requirements.txt)

$(VENV)/reference.stamp: tests/reference/requirements-sam2.txt $(VENV)/torch.stamp $(PADDLEX_VENV)/stamp
	@SAM2_BUILD_CUDA=0 $(PYTHON) -m backend.demo.environment $@ --no-deps --no-build-isolation -r tests/reference/requirements-sam2.txt

$(PADDLEX_VENV)/stamp: tests/reference/requirements-paddlex.txt
	$(fresh)
	$(call install,-r tests/reference/requirements-paddlex.txt)

bench: $(VENV)/dev.stamp $(VENV)/reference.stamp $(LABEL_STUDIO_VENV)/stamp ## Measure speed against the reference implementations
	$(BIN)/python -m tests.benchmarks

lint: $(VENV)/dev.stamp ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp ## Rewrite in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(TOOLS_VENV)/stamp: requirements-tools.txt
	$(fresh)
	$(call install,-r requirements-tools.txt)

UPGRADE ?=
# For every supported Python and system. Paddle's GPU build is not in the registry, so the image for GPUs installs it apart.
LOCK = $(TOOLS_VENV)/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header $(if $(UPGRADE),--upgrade) requirements.txt

lock: $(TOOLS_VENV)/stamp ## Lock what requirements.txt asks for, UPGRADE=1 to the newest versions
	$(LOCK) --output-file requirements.lock
	$(LOCK) --output-file requirements-gpu.lock --no-emit-package paddlepaddle

$(SBOM_VENV)/stamp: requirements.lock pyproject.toml
	$(fresh)
	$(call install,--require-hashes -r requirements.lock)
	$(call install,--no-deps "$(CURDIR)")

sbom: $(TOOLS_VENV)/stamp $(SBOM_VENV)/stamp ## Write what the service consists of into out/sbom.cdx.json (CycloneDX)
	@mkdir -p out
	$(TOOLS_VENV)/bin/cyclonedx-py environment --output-reproducible --output-file out/sbom.cdx.json $(SBOM_VENV)/bin/python

clean: ## Remove what the other commands made, except .demo with what was labelled there
	rm -rf $(VENV) $(CACHE)/.venv-* out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
