# Everything a developer runs. `make` alone lists the targets.
#
# Build output stays outside the checkout, so that third-party crates are compiled once however often it is cloned.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/tidemill/target
# A shell that was open while rustup was installed does not have cargo on its PATH yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

# Which RocksDB the backend is tested with: the distribution's library (system), the one that the crate bundles and
# production should have (bundled; its first build takes about 45 CPU-minutes), or none (0).
ROCKSDB ?= system
# Whether S3 is linted and tested: its SDK and the test server take about five CPU-minutes to compile at first.
S3 ?= 1
# Whether metadata in PostgreSQL is linted and tested (1 or 0); tests start servers of the distribution's package.
POSTGRES ?= 1
# Seeds of the simulation, each one schedule with its own faults.
SEEDS ?= 500
# Minutes of faults, and their seed, for `make chaos`; what the cluster is made of: files, servers (two JobManagers on
# PostgreSQL, checkpoints in S3), or half of the time each; and how many seconds the job may take to go on after the last fault.
MINUTES ?= 2
SEED ?= 1
# Examples of each endpoint and phase for `make fuzz-rest`, which takes SEED too.
EXAMPLES ?= 20
CLUSTER ?= mix
PROGRESS ?= 10
# Further flags for every cargo build and test, such as --locked or --offline.
CARGO_FLAGS ?=

rocksdb_deps := $(if $(filter bundled,$(ROCKSDB)),rocksdb,$(if $(filter system,$(ROCKSDB)),rocksdb-system))
rocksdb_env = $(if $(filter system,$(ROCKSDB)),ROCKSDB_LIB_DIR=$$(pkg-config --variable=libdir rocksdb))
rocksdb_features := tidemill-keyed/rocksdb tidemill-runtime/rocksdb tidemill/rocksdb tidemill-sim/rocksdb
s3_features := tidemill-snapshot/s3 tidemill-protocol/s3 tidemill-jobmanager/s3 tidemill/s3 tidemill-cli/s3 tidemill-chaos/s3
postgres_deps := $(if $(filter-out 0,$(POSTGRES)),postgres)
postgres_features := tidemill-jobmanager/postgres tidemill-cli/postgres tidemill-chaos/postgres
# What a plain build leaves out, in one run: a second set of features would compile everything once more.
features := $(strip $(if $(filter-out 0,$(ROCKSDB)),$(rocksdb_features)) $(if $(filter-out 0,$(S3)),$(s3_features)) \
	$(if $(filter-out 0,$(POSTGRES)),$(postgres_features)))
crates_of = $(addprefix -p ,$(sort $(foreach feature,$(1),$(firstword $(subst /, ,$(feature))))))
comma := ,
# The crates with those features, and the features, as cargo wants them; the whole workspace where there are none.
with_features := $(if $(features),$(call crates_of,$(features)) --features $(subst $() $(),$(comma),$(features)),--workspace)
# Tests of whole clusters take long: they run once, with the features that there are. What cargo is told for the command
# that tests/chaos builds, so that it is part of the same build.
clusters := $(sort $(filter tidemill-cli tidemill-chaos,$(subst /, ,$(features))))
clusters_build := $(if $(clusters),$(with_features),--workspace)
clusters_env = $(rocksdb_env) COMMAND_BUILD="$(clusters_build) $(CARGO_FLAGS)"

.DEFAULT_GOAL := help
.PHONY: help deps deps-features deps-hosts demo test build fmt clippy docs sim chaos fuzz-rest bench loom sanitize clean

help: ## list the targets
	@echo "Tidemill: make <target> [VARIABLE=value]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Build output: $(CARGO_TARGET_DIR) (CARGO_TARGET_DIR)"

deps: ## install what is missing from the distribution's packages
	@scripts/install-deps.sh

deps-features: ## the same for what a plain build leaves out, by ROCKSDB and POSTGRES
	@scripts/install-deps.sh $(rocksdb_deps) $(postgres_deps)

deps-hosts: ## the same for tests with several hosts on one machine
	@scripts/install-deps.sh hosts

demo: deps ## word count, killed in the middle and restored (FILE=text, KEEP=1)
	@scripts/demo.sh

test: deps-features deps-hosts ## all tests, doc tests too (ROCKSDB=bundled: with that library; ROCKSDB=0, S3=0, POSTGRES=0: without)
	cargo test --workspace $(addprefix --exclude ,$(clusters)) $(CARGO_FLAGS)
ifneq ($(features),)
	$(clusters_env) cargo test --lib --tests --examples $(with_features) $(CARGO_FLAGS)
endif

build: deps ## release build of the whole workspace
	cargo build --release --workspace $(CARGO_FLAGS)

fmt: ## format every file
	cargo fmt --all

clippy: deps-features ## the workspace's lints, warnings are errors
	cargo clippy --workspace --all-targets $(CARGO_FLAGS) -- -D warnings
ifneq ($(features),)
	$(rocksdb_env) cargo clippy --all-targets -p tidemill-s3-testing $(with_features) $(CARGO_FLAGS) -- -D warnings
endif

docs: deps ## rustdoc of the workspace, warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace $(CARGO_FLAGS)

sim: deps ## deterministic simulation (SEEDS=100000)
	SEEDS=$(SEEDS) CLUSTER_SEEDS=$(SEEDS) cargo test --release -p tidemill-sim $(CARGO_FLAGS) -- --nocapture

chaos: deps-features deps-hosts ## a real cluster whose parts are killed, stopped and cut off (MINUTES=10 SEED=1 CLUSTER=servers)
	CHAOS_SECONDS=$$(( $(MINUTES) * 60 )) SEED=$(SEED) CLUSTER=$(CLUSTER) PROGRESS=$(PROGRESS) $(clusters_env) cargo test $(clusters_build) --test chaos $(CARGO_FLAGS) -- --nocapture

fuzz-rest: ## the REST interface of a real cluster, by its own description (EXAMPLES=200 SEED=2)
	@scripts/install-deps.sh fuzz
	@CARGO_FLAGS="$(CARGO_FLAGS)" scripts/fuzz-rest.sh $(EXAMPLES) $(SEED)

bench: deps ## criterion micro-benchmarks
	cargo bench -p tidemill-benches $(CARGO_FLAGS)

loom: deps ## model-check ring and buffer pool
	@scripts/loom.sh

sanitize: deps ## address and thread sanitizers over the tests that touch unsafe
	@scripts/sanitize.sh

clean: ## remove the build output of this workspace
	cargo clean
