# Everything a fresh clone needs: each target sets up .venv when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two workers suit two cores; more share the machine with the processes that distributed tests start.
JOBS ?= 2

.PHONY: demo test test-all parity parity-mesh check format clean setup
.DEFAULT_GOAL := demo

# Tests run in JOBS processes beside each other, so each gets one thread.
TEST_ENV := OMP_NUM_THREADS=1

demo: $(STAMP)
	$(BIN)/crosstrain demo

test: $(STAMP)
	$(TEST_ENV) $(BIN)/pytest -n $(JOBS) --dist loadfile

test-all: $(STAMP)
	$(TEST_ENV) $(BIN)/pytest -n $(JOBS) --dist loadfile -m ""

parity: $(STAMP)
	$(BIN)/python -m parity_tests.training.matrix

parity-mesh: $(STAMP)
	$(BIN)/python -m parity_tests.meshes.table

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache runs dist
