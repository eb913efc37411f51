# Each target installs what it needs into .venv by itself. Nothing outside of the checkout is touched.

VENV := .venv
RUN := $(VENV)/bin/python
SUPPORTED := python3.14 python3.13 python3.12 python3.11 python3
SUITS := -c 'import sys, venv; from importlib.util import find_spec as f; sys.exit(sys.version_info < (3, 11) or not f("ensurepip"))' 2>/dev/null
SEARCH = $(shell for p in $(SUPPORTED); do $$p $(SUITS) && echo $$p && break; done)
# Searched for where it is first used, and once only: a recipe is expanded as a whole before its first line says anything.
PYTHON ?= $(eval PYTHON := $$(SEARCH))$(PYTHON)
PIP := $(RUN) -m pip --disable-pip-version-check install --quiet --no-input
ARGS ?=
# Side by side, since most tests wait for processes; more than the cores would disturb those that measure.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help run simulate install test check format bench bench-check load chaos soak lock

help:
	@echo 'make run      the gateway on http://127.0.0.1:3000, with the simulated Coze (GATEWAY_… variables are settings)'
	@echo 'make test     the whole test suite; ARGS="-k name" for a part of it'
	@echo 'make install  only what both need'
	@echo 'make check    lint, format and types      make format   put the format right'
	@echo 'make bench    the gateway beside others   make bench-check   what moved since the kept figures'
	@echo 'make load     load for any deployment     make simulate      the simulated Coze by itself'
	@echo 'make chaos    hundreds of seeded runs     make soak          half an hour of faults'
	@echo 'make lock     resolve the dependencies anew, with hashes'

run: $(VENV)/.run
	@exec $(RUN) -m gateway serve $(ARGS)

simulate: $(VENV)/.run
	@exec $(RUN) -m gateway simulate $(ARGS)

install: $(VENV)/.test

test: $(VENV)/.test
	@$(RUN) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

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
	@test -n '$(ARGS)' || KILLS=50 CLOSED=5000 CROWD=1000 $(RUN) -m pytest tests/faults
	@$(RUN) -m tests.chaos $(ARGS)

soak: $(VENV)/.test
	@$(RUN) -m tests.chaos --soak $(ARGS)

# The stamps say which lock was installed last; an interrupted installation leaves none and is begun anew.
$(VENV)/.run: requirements.lock pyproject.toml
	@{ test -n "$(PYTHON)" && $(PYTHON) $(SUITS); } || { echo 'Python 3.11 or newer with venv is needed (Debian: python3 and' \
		'python3-venv),$(if $(PYTHON), and $(PYTHON) is none,)' 'or name one: make PYTHON=/path/to/python' >&2; exit 1; }
	@echo 'Installing the gateway into $(VENV), with $(PYTHON): ready in about a minute'
	@{ $(RUN) $(SUITS) && $(RUN) -m pip --version; } >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(RUN) scripts/install.py requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run requirements-test.lock
	@echo 'Installing what the tests need into $(VENV): about another minute'
	@$(RUN) scripts/install.py requirements-test.lock
	@touch $@

UV = .lock/bin/uv pip compile --no-config --universal --python-version 3.11 --generate-hashes --upgrade --quiet \
	--custom-compile-command 'make lock' --group build pyproject.toml

lock:
	@$(PYTHON) -m venv --clear .lock
	@.lock/bin/python -m pip --disable-pip-version-check install --quiet uv
	$(UV) --output-file requirements.lock
	$(UV) --extra test --constraint requirements.lock --output-file requirements-test.lock
	@rm -rf .lock
