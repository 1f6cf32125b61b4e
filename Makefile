# Every target sets up what it needs: a fresh machine with Python and pip is enough.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Tests of the tier e2e start several ranks each; more workers than this only make them wait for each other.
WORKERS ?= 2

.PHONY: install demo test check lint unit e2e faults gpu format catalogue clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/xtuner demo

test: install
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not gpu'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint unit

unit: install
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not e2e and not faults and not gpu'

e2e: install
	$(BIN)/python -m pytest -n $(WORKERS) -m e2e

# Not in CI, which has short versions: 100 random kills, 20 save points for each number of ranks, a signal to each process
# of a launch in each phase, 20 kills of each of them, and two machines in network namespaces (as root).
faults: install
	XTUNER_LONG_FAULTS=1 XTUNER_NUM_KILLS=20 XTUNER_TWO_HOSTS=1 $(BIN)/python -m pytest -s -m faults tests/faults
	XTUNER_NUM_KILLS=20 XTUNER_TWO_HOSTS=1 $(BIN)/python -m pytest -s tests/e2e/test_no_orphans.py tests/e2e/test_two_hosts.py

gpu: install
	$(BIN)/python -m pytest -m gpu

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

catalogue: install
	$(BIN)/python tools/catalogue.py

clean:
	rm -rf $(VENV) work_dirs .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
