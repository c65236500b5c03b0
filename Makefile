# Everything a developer runs. `make` alone lists the targets.
#
# Build output stays outside the checkout, so that third-party crates are compiled once however often it is cloned.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/tidemill/target
# A shell that was open while rustup was installed does not have cargo on its PATH yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

# ROCKSDB=1 also tests the RocksDB backend. Its first build compiles RocksDB: about 45 CPU-minutes.
ROCKSDB ?= 0
# Seeds of the simulation, each one schedule with its own faults.
SEEDS ?= 500
# Further flags for every cargo build and test, such as --locked or --offline.
CARGO_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help deps demo test build fmt clippy docs sim bench loom sanitize clean

help: ## list the targets
	@echo "Tidemill: make <target> [VARIABLE=value]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Build output: $(CARGO_TARGET_DIR) (CARGO_TARGET_DIR)"

deps: ## install what is missing from the distribution's packages
	@scripts/install-deps.sh $(if $(filter 1,$(ROCKSDB)),rocksdb)

demo: deps ## word count, killed in the middle and restored (FILE=text, KEEP=1)
	@scripts/demo.sh

test: deps ## all tests, doc tests too (ROCKSDB=1: the RocksDB backend as well)
	cargo test --workspace $(CARGO_FLAGS)
ifeq ($(ROCKSDB),1)
	cargo test -p tidemill-keyed --features rocksdb $(CARGO_FLAGS)
endif

build: deps ## release build of the whole workspace
	cargo build --release --workspace $(CARGO_FLAGS)

fmt: ## format every file
	cargo fmt --all

clippy: deps ## the workspace's lints, warnings are errors
	cargo clippy --workspace --all-targets $(CARGO_FLAGS) -- -D warnings

docs: deps ## rustdoc of the workspace, warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace $(CARGO_FLAGS)

sim: deps ## deterministic simulation (SEEDS=100000)
	SEEDS=$(SEEDS) cargo test --release -p tidemill-sim $(CARGO_FLAGS) -- --nocapture

bench: deps ## criterion micro-benchmarks
	cargo bench -p tidemill-benches $(CARGO_FLAGS)

loom: deps ## model-check ring and buffer pool
	@scripts/loom.sh

sanitize: deps ## address and thread sanitizers over the tests that touch unsafe
	@scripts/sanitize.sh

clean: ## remove the build output of this workspace
	cargo clean
