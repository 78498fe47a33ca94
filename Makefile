# `make` runs what CI runs. Needs Python 3.11 or newer with pip; everything else goes into .venv.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin

check: $(VENV)/.dev  ## what CI runs: format, lint, types, import contracts, tests that are not slow
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -n $(WORKERS) -m "not slow"

test: $(VENV)/.dev  ## all tests
	$(BIN)/pytest -n $(WORKERS)

slow: $(VENV)/.dev  ## only the tests that `make check` leaves out
	$(BIN)/pytest -n $(WORKERS) -m "slow and not browser"

browser: $(VENV)/.dev  ## the dashboard's tests in a real browser (needs chromium: apt install chromium)
	$(BIN)/pytest -m browser tests/server/test_pages.py

screenshots: $(VENV)/.dev  ## the dashboard's pictures in docs/images, by the same tests
	GISTREC_SCREENSHOTS=docs/images $(BIN)/pytest -m browser -k "accessible or follows" tests/server/test_pages.py

demo: $(VENV)/.demo  ## train, compress and compare on a real log; see README
	$(BIN)/gistrec demo

accuracy: $(VENV)/.demo  ## the accuracy rows of README; can be interrupted and continued
	$(BIN)/python benchmarks/accuracy.py

rescale: $(VENV)/.demo  ## whether evicted slots should leave their weight to the kept ones (needs `make accuracy`)
	$(BIN)/python benchmarks/rescale.py

long: $(VENV)/.demo  ## what states of long histories cost in bytes and time (needs `make accuracy` and an idle machine)
	$(BIN)/python benchmarks/long_histories.py

planted: $(VENV)/.demo  ## which methods find what is thousands of events back; can be interrupted and continued
	$(BIN)/python benchmarks/planted.py

chaos: $(VENV)/.dev  ## kills, full disks and failing stores during 100,000 appends, 50 times a store: hours; can be continued; rows to docs/results/serving.jsonl
	$(BIN)/python benchmarks/chaos.py

fuzz: $(VENV)/.dev  ## damaged bytes and specs (10 million cases) and hostile requests (20,000); rows to docs/results/serving.jsonl
	$(BIN)/python benchmarks/fuzz.py

load: $(VENV)/.dev  ## requests a second and their times on one core, lmdb and Valkey (needs wrk and an idle machine)
	$(BIN)/python benchmarks/load.py

soak: $(VENV)/.dev  ## 30 minutes of mixed requests, and what memory does (needs wrk)
	$(BIN)/python benchmarks/load.py --soak 1800 lmdb

training: $(VENV)/.demo  ## events a second of a training, beside RecTools
	$(BIN)/python benchmarks/training.py

workers: $(VENV)/.dev  ## what worker processes of a server take of memory, and share of it
	$(BIN)/python benchmarks/workers_memory.py

scan: $(VENV)/.demo  ## how fast the best of a million items are found, exactly and by indexes (needs an idle machine)
	$(BIN)/python benchmarks/catalogue_scan.py

floors: $(VENV)/.demo  ## what share of the memory's and the arithmetic's speed each kernel reaches (needs a C++ compiler and an idle machine)
	$(BIN)/python benchmarks/floors.py

ranking: $(VENV)/.demo  ## AUC of all rankers, and of what is kept for them at equal bytes; can be interrupted and continued
	$(BIN)/python benchmarks/ranking.py

peers: $(VENV)/.demo  ## what gistrec takes beside RecBole, RecTools, implicit, faiss and recomputing (needs an idle machine)
	$(BIN)/python benchmarks/peers.py

requests: $(VENV)/.demo  ## what a request takes by stage, beside the floors of its parts and beside recomputing (needs an idle machine)
	$(BIN)/python benchmarks/request_floors.py

native-check: $(VENV)/.dev  ## the tests of kernels, with the compiled core watched by address and undefined-behaviour sanitizers
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/sanitized . -C build-dir=build/sanitized-objects \
		-C install.strip=false -C cmake.define.CMAKE_CXX_FLAGS_RELEASE=-O1 \
		-C "cmake.define.CMAKE_CXX_FLAGS=-g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined"
	LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
		$(BIN)/python tests/sanitized.py build/sanitized/gistrec/_native.*.so -q --timeout 1200 tests/kernels

cross: $(VENV)/.dev  ## compile the native core for AArch64, without running it (needs g++-aarch64-linux-gnu)
	$(BIN)/pip install --quiet --target build/cross-tools cmake ninja nanobind
	export PYTHONPATH=build/cross-tools && build/cross-tools/bin/cmake -S native -B build/cross -G Ninja \
		-DCMAKE_MAKE_PROGRAM=$(CURDIR)/build/cross-tools/bin/ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
		-DPython_INCLUDE_DIR=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))') \
		&& build/cross-tools/bin/cmake --build build/cross

dist: $(VENV)/.dev  ## the sdist and a wheel of it in dist/, tried in clean environments: with and without a compiler, each extra alone
	$(BIN)/python tests/dist.py dist
.PHONY: dist

bench-smoke: $(VENV)/.demo  ## a benchmark of seconds, to see that it runs; its numbers mean nothing
	$(BIN)/gistrec bench --data "synthetic(users=100, length=100, items=500)" --backbone "hstu()" \
		--epochs 1 --codec "recent(keep=16) | int8()" --codec "rvq()" --online --out runs/smoke/results.jsonl

docs: $(VENV)/.dev  ## the documentation site, into site/; warnings, such as a dead link, are errors
	PYTHONPATH=docs $(BIN)/zensical build --strict --clean

fix: $(VENV)/.dev  ## format the code and write the generated parts of README and docs
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/generate.py

golden: $(VENV)/.dev  ## write the golden files that are missing
	$(BIN)/python tests/golden/write.py
	$(BIN)/python tests/golden/write_losses.py

clean:  ## remove the environment and what tools left behind; trained models and data stay
	rm -rf $(VENV) build site .cache src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# The stamps say which extra of pyproject.toml is installed; both share the environment, dev has all. A changed kernel is compiled anew.
$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: pyproject.toml $(wildcard native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gistrec needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "installing gistrec[$*] into $(VENV) (once; PyTorch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@ $(if $(filter dev,$*),$(VENV)/.demo)

.PHONY: check test slow browser screenshots demo accuracy rescale long scan peers ranking chaos fuzz load soak bench-smoke native-check requests docs fix golden clean help planted floors workers cross training
