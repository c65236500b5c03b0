#!/usr/bin/env bash
# Fuzzes the REST interface of a real cluster, `tidemill local`, by the interface's own description: no answer is a
# 5xx, and every answer is as openapi.json says. With a job that runs, with one that is over, and with ids by chance.
#
#   scripts/fuzz-rest.sh [EXAMPLES] [SEED]   EXAMPLES for each endpoint and phase (default 20); SEED (default 1)
#
# Starts the cluster on free ports, in a directory of its own, and ends both. schemathesis comes from PyPI into a
# virtual environment below the target directory; TIDEMILL_FUZZ_VENV names another one. CARGO_FLAGS go to cargo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
examples=${1:-20} seed=${2:-1}
target=${CARGO_TARGET_DIR:-$HOME/.cache/tidemill/target}
export CARGO_TARGET_DIR=$target
version=4.32.5

say() { printf 'fuzz-rest: %s\n' "$*"; }
die() { printf 'fuzz-rest: %s\n' "$*" >&2; exit 1; }

work=$(mktemp -d) server=''
finish() {
    local code=$?
    if [[ -n $server ]]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    if ((code)) && [[ -s $work/log ]]; then
        say 'the end of the log of the cluster:'
        tail -n 40 "$work/log"
    fi
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT

venv=${TIDEMILL_FUZZ_VENV:-$target/fuzz-rest-$version}
if ! [[ -e $venv/complete ]]; then
    rm -rf "$venv"
    python3 -m venv "$venv" || die "'python3 -m venv' fails: scripts/install-deps.sh fuzz installs it"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
    touch "$venv/complete"
fi

# What `cargo test --workspace` has built already is not built again.
read -ra flags <<<"${CARGO_FLAGS:-}"
cargo build --quiet --workspace --bin tidemill --example cluster_word_count "${flags[@]}"
tidemill=$target/debug/tidemill
program=$target/debug/examples/cluster_word_count

# Nothing of the host's settings.
while IFS='=' read -r name _; do unset "$name"; done < <(env | grep '^TIDEMILL_' || true)
export XDG_CONFIG_HOME=$work
: >"$work/log"
"$tidemill" local --port 0 --data-dir "$work/data" --taskmanagers 2 --slots 8 \
    --set jobmanager.max_parallelism=4 --set checkpoints.interval=1s --set checkpoints.keep=2 2>>"$work/log" &
server=$!
url=''
for _ in $(seq 600); do
    kill -0 "$server" 2>/dev/null || die 'the cluster has ended'
    url=$(sed -n 's/.*REST at \(http[^,]*\),.*/\1/p' "$work/log")
    [[ -n $url ]] && [[ $("$tidemill" cluster --json --address "$url" 2>/dev/null) == *'"active_task_managers": 2'* ]] && break
    sleep 0.1
done
[[ -n $url ]] || die 'the cluster does not say where it serves'
export TIDEMILL_ADDRESS=$url

yes 'to be or not to be that is the question' | head -n 200000 >"$work/text" || true
submit() { "$tidemill" submit --detach --parallelism 2 "$program" -- --input "$work/text" --output "$work/$1" --rate 200; }
running() { [[ $("$tidemill" status --json "$1") == *'"status": "RUNNING"'* ]]; }
start() {
    local job
    job=$(submit "$1")
    until running "$job"; do sleep 0.1; done
    echo "$job"
}
over=$(start over)
"$tidemill" cancel "$over" >/dev/null
runs=$(start runs)
trigger=$("$tidemill" savepoint --detach "$runs")

# Refusals that a sound request may get: what is no program, what a job's state does not allow.
accepted='["2xx", "401", "403", "404", "409", "413", "415", "422"]'
run() {
    say "$1"
    shift
    cat >"$work/schemathesis.toml"
    # It keeps a cache in the directory where it runs.
    (cd "$work" && "$venv/bin/schemathesis" --config-file schemathesis.toml run "$url/openapi.json" --checks all \
        --max-examples "$examples" --seed "$seed" --continue-on-failure --no-color "$@")
    kill -0 "$server" || die 'the cluster did not survive'
}
with_job() {
    cat <<TOML
[parameters]
"path.id" = "$1"
"path.trigger" = "$trigger"

[checks]
positive_data_acceptance.expected-statuses = $accepted
TOML
}
with_job "$runs" | run "a job that runs: $runs" --exclude-path-regex '/(cancel|stop)$'
"$tidemill" status --json "$runs" | grep -q '"ended_at_ms": null' || die "job $runs has ended: nobody told it to"
with_job "$runs" | run "what ends a job: $runs" --include-path-regex '/(cancel|stop)$'
with_job "$over" | run "a job that is over: $over"
# It uses ids that answers give it, too.
last=$(start last)
run 'ids by chance' <<TOML
[checks]
positive_data_acceptance.expected-statuses = $accepted
TOML
say "job $last is $("$tidemill" status --json "$last" | sed -n 's/^ *"status": "\([A-Z]*\)".*/\1/p' | tail -n 1)"
say "done, $SECONDS s"
