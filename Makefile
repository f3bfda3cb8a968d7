# Everything happens in .venv; the only needs of the machine are Python 3.11 or newer, git and make.
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# What is installed: to run the demo takes less than to test.
USE := $(VENV)/.installed-embedded
DEVELOP := $(VENV)/.installed-dev

.PHONY: demo dev test test-long test-every test-servers test-laws chaos soak lint coverage-engine mutants benchmark-official format clean
.DELETE_ON_ERROR:

demo: $(USE)
	@$(BIN)/pg-durable demo $(ARGS)

dev: $(USE)
	@$(BIN)/pg-durable dev $(ARGS)

# Most tests wait for something: a process for each core, each with a server of its own.
test: lint
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

# All there is, in three parts that can be run alone: about four hours on two cores. What repeats itself ends after a
# while (tests/fixtures/budget.py), any other test after its timeout. SHARE=0.01 gives it that share of the time:
# about half an hour, nearly all of which is for tests that do not repeat themselves.
SHARE ?= 1
test-long: test-every test-servers test-laws

# Each test once, also the long ones: about two hours and a half.
test-every: lint
	PG_DURABLE_SHARE=$(SHARE) $(BIN)/pytest -m 'long or not long'

# Repeated on every PostgreSQL that can be had, what talks to one: about a quarter of an hour each.
ON_EVERY_SERVER := $(addprefix tests/,crash docs e2e examples faults migrations provider sdk sql)
test-servers: $(DEVELOP)
	$(BIN)/python -m tests.servers $(ON_EVERY_SERVER)

# The laws of the engine, ten thousand programs or four minutes for each: about an hour.
test-laws: $(DEVELOP)
	PG_DURABLE_SHARE=$(SHARE) HYPOTHESIS_PROFILE=long $(BIN)/pytest --timeout 900 tests/property/engine

# Kills workers at random instants, KILLS times; PG_DURABLE_SEED repeats a run that it printed.
KILLS ?= 1000
chaos: $(DEVELOP)
	PG_DURABLE_KILLS=$(KILLS) $(BIN)/pytest -s -m 'long or not long' --timeout 3600 tests/crash

# A mixed load for MINUTES, to see that nothing grows.
MINUTES ?= 60
soak: $(DEVELOP)
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

lint: $(DEVELOP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Branches of the engine that its own tests take; some minutes.
coverage-engine: $(DEVELOP)
	$(BIN)/coverage run --data-file=.coverage-engine --branch --source duroxide/engine -m pytest tests/unit/duroxide tests/property/engine tests/histories
	$(BIN)/coverage report --data-file=.coverage-engine --show-missing --precision=2 --fail-under=98

# On request: takes most of an hour; docs/reference/replay.md has the last score. `mutmut results` and
# `mutmut show NAME` tell about survivors.
mutants: $(DEVELOP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check mutmut
	$(BIN)/mutmut run --max-children 2

# The official wheel beside this repository, on SQLite, and on PostgreSQL if ARGS='--dsn ...' names a database.
OFFICIAL := .venv-official
benchmark-official: $(DEVELOP)
	@test -x $(OFFICIAL)/bin/python || $(PYTHON) -m venv $(OFFICIAL)
	@$(OFFICIAL)/bin/python -I -c 'import duroxide' 2>/dev/null || $(OFFICIAL)/bin/python -m pip --disable-pip-version-check --quiet install duroxide
	@$(BIN)/python -m benchmarks official --python $(OFFICIAL)/bin/python $(ARGS)

format: $(DEVELOP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(OFFICIAL) dist build

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed: install it, or name one: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo 'The venv module is needed: on Debian and Ubuntu, apt-get install python3-venv' >&2; exit 1; }

$(USE): pyproject.toml | $(BIN)/python
	@echo 'Installing into $(VENV) ...'
	@$(PIP) install --editable '.[embedded]'
	@touch $@

$(DEVELOP): pyproject.toml | $(BIN)/python
	@echo 'Installing into $(VENV) ...'
	@$(PIP) install --editable '.[dev]'
	@touch $@ $(USE)
