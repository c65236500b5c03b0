#!/usr/bin/env bash
# Runs the loom models: every interleaving of the lock-free code at small sizes.
#
#   scripts/loom.sh [arguments of cargo test, such as a test's name]
#
# loom replaces the atomics of everything that is built with it, so it gets a target directory of its own:
# "$CARGO_TARGET_DIR-loom" where that variable is set, target/loom otherwise.
set -euo pipefail

# Crates with a tests/loom.rs.
crates=(tidemill-ring)

cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -n "${CARGO_TARGET_DIR:-}" ]]; then
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR%/}-loom"
else
    export CARGO_TARGET_DIR="$PWD/target/loom"
fi
export RUSTFLAGS="${RUSTFLAGS:-} --cfg loom"

for crate in "${crates[@]}"; do
    cargo test -p "$crate" --release --test loom "$@"
done
