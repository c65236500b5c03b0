#!/bin/sh
# Fuzzes the REST interface by its own description: no answer is a 5xx, and every answer is as
# openapi.json says. The TaskManagers are fakes, the JobManager is the real one.
#   scripts/fuzz-rest.sh [EXAMPLES] [SEED]     EXAMPLES a endpoint and phase, 100 by default
# Wants python3 with venv; schemathesis comes from PyPI.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
examples=${1:-100}
seed=${2:-1}
work=$(mktemp -d)
server=
cleanup() {
    exec 9>&- 2>/dev/null || true
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT INT TERM

venv=${TIDEMILL_FUZZ_VENV:-${CARGO_TARGET_DIR:-$root/target}/fuzz-rest}
[ -x "$venv/bin/schemathesis" ] || {
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q 'schemathesis==4.32.5'
}
cargo build -q -p tidemill-jobmanager --example fake_cluster
mkfifo "$work/stdin"
"${CARGO_TARGET_DIR:-target}/debug/examples/fake_cluster" <"$work/stdin" >"$work/out" &
server=$!
exec 9>"$work/stdin"
for _ in $(seq 300); do
    [ "$(wc -l <"$work/out")" -ge 4 ] && break
    sleep 0.1
done
url=$(sed -n 1p "$work/out")
trigger=$(sed -n 4p "$work/out")

# Refusals that a sound request may get: what is no program, what a job's state does not allow.
run() {
    cat >"$work/schemathesis.toml"
    # It keeps a cache in the directory where it runs.
    cd "$work"
    "$venv/bin/schemathesis" --config-file "$work/schemathesis.toml" run "$url/openapi.json" \
        --max-examples "$examples" --seed "$seed" --checks all --continue-on-failure --no-color
    cd "$root"
}
accepted='["2xx", "401", "403", "404", "409", "413", "415", "422"]'
echo "== ids by chance"
run <<TOML
[checks]
positive_data_acceptance.expected-statuses = $accepted
TOML
# A running job last: the fuzzer cancels it.
for id in "$(sed -n 3p "$work/out")" "$(sed -n 2p "$work/out")"; do
    echo "== job $id"
    run <<TOML
[parameters]
"path.id" = "$id"
"path.trigger" = "$trigger"

[checks]
positive_data_acceptance.expected-statuses = $accepted
TOML
done
