# Everything a person runs here. `make serve` starts Retouch; the rest is for people who change it.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ARGS ?=
# Most tests wait for a server or a lease, so two share a core well; one file stays in one process. Files with few tests
# are the long ones, which would all come last if they were reordered.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: serve test check fix golden bench docs playground screenshots
.DEFAULT_GOAL := serve

serve: .venv/installed-local  ## start the server on 127.0.0.1:8000 with the demo model
	$(BIN)/retouch serve $(ARGS)

check: .venv/installed-dev  ## format, lint, types, import contracts, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) tests/unit tests/docs/test_pages.py --quiet

test: .venv/installed-dev  ## every test
	$(PYTEST) $(ARGS)

fix: .venv/installed-dev  ## format and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/installed-dev  ## write the generated reference pages again
	$(BIN)/python docs/generate.py

playground:  ## build the page at / from its sources; needs Node
	cd playground && npm ci --ignore-scripts && npm run build

screenshots: .venv/installed-dev  ## make the images of the page in the documentation again; needs Chromium
	$(BIN)/python -m docs.screenshots

golden: .venv/installed-dev  ## write the golden files again; read the difference before you commit it
	$(BIN)/pytest tests --golden $(ARGS)

bench: .venv/installed-dev  ## the measurements of benchmarks/LOG.md
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/job_queue.py
	$(BIN)/python benchmarks/image_codecs.py
	$(BIN)/python benchmarks/engine.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed-local: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing Retouch into .venv; the first time takes a few minutes."
	$(PIP) --editable ".[local]"
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing Retouch and its test tools into .venv; the first time takes a few minutes."
	$(PIP) --editable ".[local,dev]"
	@touch $@ .venv/installed-local
