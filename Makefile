# The project's commands; `make` alone lists them. Each installs what it needs into .venv first.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
# Each test process computes on one thread, so that two of them share two cores without getting in each other's way.
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest
# One test at a time; those of a group go to one process, which makes what they share once.
PARALLEL := -n auto --maxprocesses 2 --dist loadgroup
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
REPORT := .pytest_cache/tests.xml
# pytest fails by itself if it finds no test (status 5), but not if every test of several processes was skipped.
CHECK_DISTRIBUTED = $(BIN)/python -c "import sys, xml.etree.ElementTree as e; \
  found = e.parse('$(REPORT)').findall('.//property[@name=\"distributed\"]/../..'); \
  sys.exit(all(test.find('skipped') is not None for test in found))" \
  || { echo "make $@: every distributed test was skipped" >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-fast test-distributed faults oracles fault-page evidence-page metrics-page lint format bench \
  notebooks notebook-pages docs wheel clean

help: ## List the commands
	@echo "make PYTHON=python3.12 ... chooses another interpreter; make demo ARGS='key=value ...' changes the run."
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Set up .venv with the package, at the versions of constraints.txt

install-dev: $(VENV)/.installed-dev ## Set up .venv with the package and the tools to test, check and build it

demo: require-run $(VENV)/.installed ## Train a small LayerMatch model on this machine
	$(BIN)/python -m layermatch.run $(ARGS)

test: $(VENV)/.installed-dev ## Run every test: slow and distributed ones too
	$(PYTEST) -m "not distributed" $(PARALLEL)
	@$(MAKE) --no-print-directory test-distributed

test-fast: $(VENV)/.installed-dev ## Run the tests that are neither slow nor distributed
	$(PYTEST) -m "not slow and not distributed" $(PARALLEL)

# Not in parallel: each of these tests starts processes of its own, and two at once take as long.
test-distributed: $(VENV)/.installed-dev ## Run the tests of several processes; fail if none of them ran
	$(PYTEST) -m distributed -n 0 --junitxml=$(REPORT)
	@$(CHECK_DISTRIBUTED)

faults: $(VENV)/.installed-dev ## Hurt runs in every way that is promised to be survived; print what was lost
	$(PYTEST) -n 0 --kills 20 --faults tests

oracles: $(VENV)/.installed-dev ## Compare with numbers of the peers' own code; print the largest difference of each test
	$(PYTEST) -m oracle $(PARALLEL) tests

fault-page: $(VENV)/.installed-dev ## Make docs/what-can-go-wrong.md from tests/faults/catalogue
	$(BIN)/python -m tests.faults.page

evidence-page: $(VENV)/.installed ## Make the tables of docs/evidence.md from docs/evidence; ARGS="runs/studies/NAME ..." adds results
	$(BIN)/python benchmarks/evidence.py $(ARGS)

metrics-page: $(VENV)/.installed ## Make docs/metrics.md from src/layermatch/metrics.py
	$(BIN)/python -m layermatch.metrics > docs/metrics.md

lint: $(VENV)/.installed-dev ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## Format the code and repair what can be repaired
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: require-bench $(VENV)/.installed ## Measure speed and memory on this machine
	$(BIN)/python -m layermatch.bench all $(ARGS)

notebooks: require-notebooks $(VENV)/.installed-notebooks ## Execute every notebook; results go to build/notebooks
	$(BIN)/python -m nbconvert --log-level WARN --to notebook --execute --output-dir build/notebooks $(NOTEBOOKS)

# The last line: links between notebooks become links between pages.
notebook-pages: notebooks ## Execute them and show text, results and pictures in docs/notebooks
	rm -rf docs/notebooks
	$(BIN)/python -m nbconvert --log-level WARN --to markdown --output-dir docs/notebooks \
	  $(NOTEBOOKS:%=build/%)
	@$(BIN)/python -c "import pathlib; [page.write_text(page.read_text().replace('.ipynb)', '.md)') \
	.replace('](../', '](../../')) for page in pathlib.Path('docs/notebooks').glob('*.md')]"

# Material's notice about the next MkDocs is for those who choose a theme.
docs: $(VENV)/.installed-dev ## Make the site of docs/ and the reference in site; fail on a broken link or reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: $(VENV)/.installed-dev ## Build the wheel in dist
	$(BIN)/python -m build --wheel

clean: ## Remove build results and caches; runs, data and .venv stay
	rm -rf build dist site src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
	find $(wildcard src tests conf benchmarks notebooks) \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune \
	  -exec rm -rf {} +

# A command whose part of the project is missing says so before anything is installed.
require-notebooks:
	@test -n "$(NOTEBOOKS)" || { echo "make notebooks: there is no notebook in notebooks/ yet" >&2; exit 1; }

require-%:
	@test -f src/layermatch/$*.py || test -f src/layermatch/$*/__main__.py \
	|| { echo "make: src/layermatch/$*.py, which this command runs, does not exist yet" >&2; exit 1; }

# Stamp files: a step is done again when the files it depends on change.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "PYTHON=$(PYTHON) is not Python 3.11 or newer: install one, or name it: make PYTHON=python3.12 ..." >&2; \
	exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-notebooks: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[notebooks]'
	@touch $(VENV)/.installed $@
