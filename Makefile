# make quickstart   four small trials on scikit-learn's digits, with tables and a picture
# make test         every test but those marked browser or cluster
# make test-browser the report's page in a headless Chromium (Debian, Ubuntu: apt-get install chromium)
# make test-cluster sweeps on a real Slurm that the tests start (Debian, Ubuntu: apt-get install slurm-wlm munge)
# make lint         ruff and mypy
# make bench        a table of what is fast and what bounds it, in under ten minutes on two quiet cores
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: quickstart test test-browser test-cluster lint bench clean

quickstart: $(INSTALLED)
	$(BIN)/python -m harness.sweep sweeps/quickstart.yaml

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=10 -m "not browser and not cluster"

test-browser: $(INSTALLED)
	$(BIN)/python -m pytest -q -m browser tests/analysis/browser

test-cluster: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m cluster --durations=10 tests/slurm tests/faults

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python tests/benchmarks/bench.py

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dpsweep needs Python 3.11 or newer, found $$($(PYTHON) --version 2>&1). Type: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing. On Debian or Ubuntu type: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache *.egg-info
