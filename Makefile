# make demo     everything once on real data: set-up, train, calibrate, serve, watch a customer drift
# make test     set-up and the whole test suite
# make study    the comparisons of docs/study that are not there yet: 2 hours in all on 2 cores
# make bench    how fast all pairs are counted, what TCM adds to a step, how near a training comes to
#               its network alone, as ratios: 5 minutes
#
# PIP_ARGS reaches pip, for instance to name an index with the CPU build of torch:
#
#   make demo PIP_ARGS="--extra-index-url URL"

.PHONY: setup demo test study bench clean
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

BIN := .venv/bin
STAMP := .venv/.set-up
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3)
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))

# torch stands in the same command as the rest, so that no other requirement brings a newer one.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS) \
	torch==2.13.0 -e '.[cpu,models,dev]'

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/pip ]; then \
		for python in $(PYTHONS); do \
			if $$python -c '$(SUPPORTED)' 2> /dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "Limen needs Python 3.11 or 3.12 with venv, and found neither in: $(PYTHONS)." \
				"Debian: apt-get install python3 python3-venv; or name it: PYTHON=/path" >&2; \
			exit 1; \
		fi; \
		echo "Creating .venv with $$($$found --version)." && $$found -m venv .venv || exit 1; \
	fi
	@echo "Installing the pinned packages into .venv; the first time takes a few minutes."
	@# pip warns about its own configuration, at length; its errors stay.
	@$(INSTALL) 2> >(grep -v '^WARNING' >&2) | awk '\
		/^Collecting/ && ++n % 20 == 0 { print "  " n " packages found"; fflush() } \
		/^Installing collected/ { print "  unpacking " NF - 3 " packages"; fflush() }'
	@touch $@

# ARGS=--exit ends the demo by itself instead of leaving its server running.
demo: $(STAMP)
	@$(BIN)/python -m jobs.demo $(ARGS)

# Both parts of the suite run even if the first one fails: one run tells everything.
test: $(STAMP)
	@command -v promtool >/dev/null || echo "promtool is missing, so the tests of the alert rule" \
		"will fail; it comes with Prometheus (Debian: apt-get install prometheus)" >&2
	$(BIN)/ruff check .
	$(BIN)/mypy
	@status=0; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not ray and not gpu and not long" -n 2 --dist loadfile || status=1; \
	$(BIN)/python -m pytest -m "ray and not long" || status=1; \
	exit $$status

# Finished runs stand in docs/study/runs.jsonl and are not repeated. ARGS=--quick tries everything.
study: $(STAMP)
	$(BIN)/python -m benchmarks.study $(ARGS)
	$(BIN)/python -m benchmarks.audit $(if $(filter --quick,$(ARGS)),--quick)

# ARGS=--quick leaves out the count of 100,000 items.
bench: $(STAMP)
	$(BIN)/python -m benchmarks.all_pairs $(ARGS)
	$(BIN)/python -m benchmarks.tcm
	$(BIN)/python -m benchmarks.training

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build limen.egg-info
	find pipeline serving jobs tests -name __pycache__ -prune -exec rm -rf {} +
