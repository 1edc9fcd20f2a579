# `make` says what there is. Everything works on a fresh Debian 12 or 13 as root with git and make: what is missing is
# installed by .ci/setup, and it says so.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON := /usr/bin/python3
BIN := .venv/bin
VENV := .venv/.complete
PYTEST := $(BIN)/python -m pytest

# One seed for everything random in a run: hypothesis, and the sample of the crash matrix. SEED=... repeats a run.
SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
SEED := $(SEED)
export THINSYNC_SEED = $(SEED)

.PHONY: help
help: ## this text
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | awk -F '\t' '{ printf "  make %-10s %s\n", $$1, $$2 }'

.PHONY: venv
venv: $(VENV) ## .venv: Debian's own python3-* packages, pinned tools beside them, this project editable

# One at a time, also when two makes want it: hence the lock.
$(VENV): requirements-dev.txt pyproject.toml .ci/setup
	@exec 9>.venv.lock; flock 9; \
	if [ -e $@ ] && [ -z "$$(find $^ -newer $@)" ]; then exit 0; fi; \
	.ci/setup python; \
	echo "making .venv from $(PYTHON)"; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'; \
	[ "$$($(BIN)/python -c 'import sys; print(sys.base_prefix)' 2>/dev/null)" = /usr ] || rm -rf .venv; \
	$(PYTHON) -m venv --system-site-packages .venv; \
	$(BIN)/pip --disable-pip-version-check install --quiet --requirement requirements-dev.txt; \
	$(BIN)/pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .; \
	touch $@

.PHONY: demo
demo: $(VENV) deb ## the main job, shown on two hosts in the lab (root)
	@$(BIN)/python tests/lab/demo.py

.PHONY: test
test: ## everything: lint, unit, deb, lintian, lab-test; SEED=N repeats a run
	@echo "seed: $(SEED)  (repeat with: make test SEED=$(SEED))"
	@for part in lint unit deb lintian lab-test; do \
	    echo "== $$part"; \
	    $(MAKE) $$part SEED=$(SEED) || { echo "make test: $$part failed, seed $(SEED)" >&2; exit 1; }; \
	done
	@echo "make test: all passed, seed $(SEED)"

.PHONY: unit
unit: $(VENV) ## unit and contract tests, on up to eight processors
	@echo "seed: $(SEED)"
	@$(PYTEST) --numprocesses=auto --maxprocesses=8 --dist=worksteal --hypothesis-seed=$(SEED) $(or $(wildcard tests/unit tests/contract),tests/unit)

.PHONY: lint
lint: $(VENV) ## ruff, mypy, import-linter: all four say what they find
	@failed=; \
	$(BIN)/ruff check --output-format concise . || failed="$$failed ruff"; \
	$(BIN)/ruff format --check --output-format concise . || failed="$$failed format"; \
	$(BIN)/mypy || failed="$$failed mypy"; \
	$(BIN)/lint-imports || failed="$$failed imports"; \
	[ -z "$$failed" ] || { echo "lint failed:$$failed  (make format mends some of it)" >&2; exit 1; }

.PHONY: lab-test
lab-test: $(VENV) deb ## the tests in the two-host lab, with a random sample of the crash matrix (root)
	@echo "seed: $(SEED)"
	@$(PYTEST) tests/lab

.PHONY: soak
soak: $(VENV) deb ## the lab tests with the whole crash matrix: hours (root)
	@echo "seed: $(SEED)"
	@$(PYTEST) tests/lab --matrix=whole

.PHONY: bench
bench: $(VENV) deb ## measurements: the delta against thin_delta (BENCH=its options), the stream against cat, transfers and snapshots in the lab (root)
	@failed=; \
	$(BIN)/python -m tests.bench.delta $(BENCH) || failed="$$failed delta"; \
	$(BIN)/python -m tests.bench.codec || failed="$$failed codec"; \
	$(BIN)/python -m tests.bench.transfers || failed="$$failed transfers"; \
	$(BIN)/python tests/bench/run.py || failed="$$failed snapshots"; \
	[ -z "$$failed" ] || { echo "make bench: not reached:$$failed" >&2; exit 1; }

.PHONY: format
format: $(VENV) ## put the code into shape, and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix --exit-zero .
	@$(BIN)/ruff format .

.PHONY: deb
deb: ## dist/thinsync-virt_VERSION_all.deb
	@.ci/setup build
	@packaging/build-deb

.PHONY: lintian
lintian: deb ## lintian on the package
	@lintian --allow-root --fail-on error,warning --pedantic --display-info --tag-display-limit 0 dist/thinsync-virt_*_all.deb

.PHONY: clean
clean: ## removes what was built here (not the lab's cache)
	rm -rf .venv .venv.lock build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
