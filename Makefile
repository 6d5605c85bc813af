# `make demo` is all a newcomer needs; everything lives in .venv and .tapeline.

VENV := .venv
ROUNDS ?= 5
BIN := $(VENV)/bin
# The first Python of 3.11 or later; `make PYTHON=/path/to/python demo` takes another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV ?= uv
LOCK := $(UV) pip compile pyproject.toml --extra build --generate-hashes --no-emit-index-url \
	--universal --python-version 3.11 --no-header --quiet

.PHONY: help install demo up test lint bench chaos lock clean

help:
	@echo 'make demo     everything here, against local venues: no network, no account'
	@echo 'make up       everything here, against the real venues of config/tapeline.toml'
	@echo 'make install  only set up .venv'
	@echo 'make test     all tests          make lint   style, types, import rules'
	@echo 'make bench    what it carries    make chaos  kill it again and again, count what is lost'
	@echo 'make lock     renew requirements/*.txt from pyproject.toml (needs uv; UPGRADE=1 takes newer versions)'

install: $(VENV)/.runtime

demo: install
	@exec $(BIN)/tapeline demo

up: install
	@exec $(BIN)/tapeline up

test: $(VENV)/.dev
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: $(VENV)/.dev
	@failed=; for check in 'ruff check' 'ruff format --check' pyright lint-imports; do \
		echo "== $$check"; $(BIN)/$$check || failed="$$failed $${check%% *}"; done; \
		test -z "$$failed" || { echo "not clean:$$failed"; exit 1; }

bench: install
	@exec $(BIN)/tapeline bench $(ARGS)

chaos: $(VENV)/.dev
	$(BIN)/tapeline chaos $(ARGS)
	TAPELINE_FIRE_ROUNDS=$(ROUNDS) $(BIN)/pytest -m fire

lock:
	$(LOCK) $(if $(UPGRADE),--upgrade) -o requirements/runtime.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --extra test --extra lint -c requirements/runtime.txt -o requirements/dev.txt

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'Tapeline needs Python 3.11 or later, and none is on the PATH (make PYTHON=... names one).'; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo 'Python could not make .venv: its venv module is missing (on Debian: apt install python3-venv).'; exit 1; }

# Every package is pinned with its hashes; the project itself is installed without asking an index.
$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(BIN)/python
	@echo 'Installing Tapeline into $(VENV) (once) ...'
	@$(PIP) install --require-hashes -r requirements/runtime.txt
	@$(PIP) install --no-index --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo 'Installing test and lint tools into $(VENV) (once) ...'
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@
