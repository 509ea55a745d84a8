# The project's commands. Each sets up .venv first, from pinned and hash-checked packages.

PYTHON ?= python3
SOAK_RUNS ?= 10000
SOAK_FROM ?=
VENV := .venv
UV_VERSION := 0.13.9
UV := $(VENV)/bin/uv
UV_READY := $(VENV)/.uv
INSTALLED := $(VENV)/.installed
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

AUDIT := $(UV) run --quiet --no-project --isolated --with-requirements requirements-audit.lock

.PHONY: help run test test-arm64 test-grid test-containers check soak mutants wheel reproduction attacks stored-outcomes \
	screenshots bench docs audit sbom lock clean

help:  ## List the commands (the default)
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

run: $(INSTALLED)  ## Play a street of sixty homes over MQTT; the run's folder is under runs/
	$(VENV)/bin/stackelgrid run street

test: $(INSTALLED)  ## Run the tests, a worker a core
	$(VENV)/bin/pytest --numprocesses logical --dist worksteal

test-arm64: $(INSTALLED)  ## Play a run in which one home is on an emulated arm64 machine, like a Raspberry Pi; needs root
	scripts/arm64/make-root build/arm64
	$(VENV)/bin/pytest tests/deploy/arm64/emulated_home.py

test-grid: $(INSTALLED)  ## Play 200 sessions of a grid whose nodes are killed and whose homes come and go: a quarter of an hour
	rm -rf build/grid
	$(VENV)/bin/python tests/deploy/lasting_grid.py build/grid

test-containers: $(INSTALLED)  ## Run the testbed in containers, under faults; starts a container engine if it may
	scripts/containers/with-engine $(VENV)/bin/pytest -s tests/deploy/containers/testbed_in_containers.py

check: $(INSTALLED)  ## Check format, style, types and imports between layers
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

soak: $(INSTALLED)  ## Play 10,000 seeded runs (or SOAK_RUNS, from SOAK_FROM) under random faults, and check the round protocol's promises on each
	$(VENV)/bin/python -m stackelgrid.soak --runs $(SOAK_RUNS) $(SOAK_FROM:%=--from %) --seconds 3600 --jobs 2

mutants: $(INSTALLED)  ## Change the round protocol by small mistakes, and see whether soak and tests find each
	PYTHONPATH=tests $(VENV)/bin/python -m mutants
	PYTHONPATH=tests $(VENV)/bin/python -m mutants.rules

stored-outcomes: $(INSTALLED)  ## Write tests/games/stored anew, after a result changed for a reason
	$(VENV)/bin/python tests/games/test_stored_outcomes.py

wheel: $(INSTALLED)  ## Build the package into dist/: pip install 'dist/stackelgrid-….whl[desk]'
	$(VENV)/bin/hatchling build --target wheel --directory dist

screenshots: $(INSTALLED)  ## Take the screenshots of docs/control-room.md anew; needs Chromium
	PYTHONPATH=tests $(VENV)/bin/python -m page.screenshots

reproduction: $(INSTALLED)  ## Write docs/reproduction.md: the papers' figures beside those of our runs
	$(VENV)/bin/python -m stackelgrid.study.reproduction docs/reproduction.md

attacks: $(INSTALLED)  ## Write the table of docs/privacy.md: what attacks on the homes of the shipped case recover
	$(VENV)/bin/stackelgrid attack user_oriented --write docs/privacy.md

docs: $(INSTALLED)  ## Build the documentation as a site: site/index.html. A broken link, anchor or tag of an equation is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict  # with --quiet warnings would pass

bench: $(INSTALLED)  ## Run the benchmarks
	$(VENV)/bin/python -m benchmarks

audit: $(UV_READY)  ## Look for known vulnerabilities in the locked packages; asks pypi.org, and fails where it does not know one
	$(AUDIT) pip-audit --strict --require-hashes --disable-pip --progress-spinner off --requirement requirements.lock

sbom: $(UV_READY)  ## Write bills of materials (CycloneDX) into dist/: of everything, and of what an EMC installs
	@mkdir -p dist
	$(AUDIT) cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file dist/stackelgrid.cdx.json requirements.lock
	$(AUDIT) cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file dist/stackelgrid-emc.cdx.json requirements-emc.lock

lock: $(UV_READY)  ## Update the lock files from pyproject.toml, keeping the versions that still fit
	$(COMPILE) --all-extras --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra metrics --constraints requirements.lock --output-file requirements-emc.lock pyproject.toml
	echo uv==$(UV_VERSION) | $(COMPILE) --output-file requirements-uv.lock -
	printf 'pip-audit\ncyclonedx-bom\n' | $(COMPILE) --output-file requirements-audit.lock -

clean:  ## Remove the environment, builds and caches; runs/ stays
	rm -rf $(VENV) build dist site .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV_READY): requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Stackelgrid needs Python 3.11 or newer, \
	but $(PYTHON) is %d.%d: name a newer one, as in make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-uv.lock
	@touch $@

$(INSTALLED): pyproject.toml requirements.lock $(UV_READY)
	$(UV) pip sync --quiet --python $(VENV)/bin/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@
