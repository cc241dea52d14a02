# Every target sets up .venv by itself, once; nothing else is needed but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-fast lint style types whole fast bench docs

demo: .venv/.ready
	$(BIN)/fedsim run

# mypy works beside pytest, on what that leaves of the cores; make fails where either does.
test: style
	@$(MAKE) --no-print-directory -j2 types whole

test-fast: style
	@$(MAKE) --no-print-directory -j2 types fast

lint: style types

style: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ready
	$(BIN)/mypy
	$(BIN)/lint-imports

whole: .venv/.ready
	$(BIN)/pytest -n 2 --dist worksteal

fast: .venv/.ready
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

bench: .venv/.ready
	for name in $$($(BIN)/python benchmarks/run.py); do \
	  $(BIN)/python benchmarks/run.py $$name || exit 1; done

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

.venv/.docs: .venv/.ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fedsim needs Python 3.11 or newer; set PYTHON=..., got $$($(PYTHON) --version)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
