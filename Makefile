# Every target does its own set-up (.ci/setup).  All of them run in namespaces of their own; the machine's network is not touched.
PYTHON = .venv/bin/python
PYTEST = $(PYTHON) -m pytest -q -n auto

.PHONY: help demo test check bench bench-proxy matrix mutants clean

help:
	@echo "make demo         serve a page from a container through a published port, and show what happened"
	@echo "make test         all tests"
	@echo "make check        linters and type checkers"
	@echo "make bench        measure beside Docker (installs docker.io on Debian)"
	@echo "make bench-proxy  the port proxy alone"
	@echo "make matrix       the tests under every Python that is here (3.11 to 3.13)"
	@echo "make mutants      do the tests see plausible mistakes? an hour and more; ARGS='--sample 10 --only netlib' for a part"

demo:
	@.ci/setup demo
	@$(PYTHON) -I -m pynet playground -- $(PYTHON) -I -m pynet.plugins.demo

test:
	@.ci/setup test
	@$(PYTEST) $(ARGS)

check:
	@.ci/setup check
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pyright

bench:
	@.ci/setup bench
	$(PYTHON) bench/run.py $(ARGS)

bench-proxy:
	@.ci/setup bench
	$(PYTHON) bench/bench_proxy.py $(ARGS)

matrix:
	@.ci/matrix

mutants:
	@.ci/setup test
	@$(PYTHON) tests/mutants.py $(ARGS)

clean:
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis .mutants dist build
