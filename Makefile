# `make demo` is all a newcomer needs; everything lives in .venv and .tapeline.

VENV := .venv
ROUNDS ?= 5
SEED ?= 1
BIN := $(VENV)/bin
PEERS := .venv-peers
OLDER := .venv-peers-older
# The first Python of 3.11 or later; `make PYTHON=/path/to/python demo` takes another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV ?= uv
COMPILE := $(UV) pip compile --generate-hashes --no-emit-index-url --universal --python-version 3.11 \
	--no-header --quiet
LOCK := $(COMPILE) pyproject.toml --extra build

.PHONY: help install demo up test soak fuzz lint bench bench-peers chaos dashboards lock clean

help:
	@echo 'make demo     everything here, against local venues: no network, no account;'
	@echo '              DEMO_VENUES=binance,kraken make demo takes fewer of them'
	@echo 'make up       everything here, against the real venues of config/tapeline.toml; CONFIG=file names another'
	@echo 'make install  only set up .venv'
	@echo 'make test     all tests          make lint   style, types, import rules'
	@echo 'make soak     the longer form of those that have one: thousands of updates a venue'
	@echo 'make fuzz     a hundred thousand wrong frames a venue, where make test has two thousand; SEED=2 takes others'
	@echo 'make bench    what it carries    make chaos  kill it again and again, count what is lost'
	@echo 'make bench-peers  the same frames through cryptofeed and through Tapeline: CPU a frame'
	@echo 'make dashboards  write grafana/dashboards/ from grafana/generate.py'
	@echo 'make lock     renew requirements/*.txt from pyproject.toml (needs uv; UPGRADE=1 takes newer versions)'

install: $(VENV)/.runtime

demo: install
	@exec $(if $(DEMO_VENUES),env TAPELINE_VENUES='$(DEMO_VENUES)') $(BIN)/tapeline demo $(if $(CONFIG),--config '$(CONFIG)')

up: install
	@exec $(BIN)/tapeline up $(if $(CONFIG),--config '$(CONFIG)')

test: $(VENV)/.dev
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST)

soak: $(VENV)/.dev
	$(BIN)/pytest -n auto -m soak $(PYTEST)

fuzz: $(VENV)/.dev
	TAPELINE_FUZZ_SEED='$(SEED)' $(BIN)/pytest -n auto -m fuzz $(PYTEST)

lint: $(VENV)/.dev
	@failed=; for check in 'ruff check' 'ruff format --check' pyright lint-imports; do \
		echo "== $$check"; $(BIN)/$$check || failed="$$failed $${check%% *}"; done; \
		test -z "$$failed" || { echo "not clean:$$failed"; exit 1; }

bench: install
	@exec $(BIN)/tapeline bench $(ARGS)

bench-peers: install $(PEERS)/.installed
	@$(MAKE) --no-print-directory $(OLDER)/.installed || echo 'cryptofeed 2.3.2 cannot be had here: without Coinbase'
	@exec $(BIN)/python -m benchmarks.peers --python $(PEERS)/bin/python --older $(OLDER)/bin/python $(ARGS)

chaos: $(VENV)/.dev
	$(BIN)/tapeline chaos $(ARGS)
	TAPELINE_FIRE_ROUNDS=$(ROUNDS) $(BIN)/pytest -m fire
	TAPELINE_NATIVE_ROUNDS=50 $(BIN)/pytest tests/broadcaster/test_native_kills.py

dashboards: install
	$(BIN)/python grafana/generate.py

lock:
	$(LOCK) $(if $(UPGRADE),--upgrade) -o requirements/runtime.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --extra test --extra lint -c requirements/runtime.txt -o requirements/dev.txt
	for list in build requirements older; do \
		$(COMPILE) benchmarks/peers/$$list.in $(if $(UPGRADE),--upgrade) -o benchmarks/peers/$$list.txt || exit 1; done

clean:
	rm -rf $(VENV) $(PEERS) $(OLDER) build *.egg-info

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

# What Tapeline is compared with: environments of their own, with nothing of ours in them; the older is for Coinbase.
$(PEERS)/.installed: benchmarks/peers/requirements.txt
$(OLDER)/.installed: benchmarks/peers/older.txt
%/.installed: benchmarks/peers/build.txt
	@test -n '$(PYTHON)' || { echo 'no Python 3.11 or later on the PATH (make PYTHON=... names one).'; exit 1; }
	@echo 'Installing cryptofeed into $* (once; it is compiled: this takes a C compiler and half a minute) ...'
	@$(PYTHON) -m venv $*
	@$*/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r benchmarks/peers/build.txt
	@$*/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-build-isolation \
		-r $(filter-out benchmarks/peers/build.txt,$^)
	@touch $@
