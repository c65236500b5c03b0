#!/usr/bin/env bash
# Measures the workloads and prints a markdown table: median events a second with minimum and
# maximum, and the medians of allocations per event, peak memory and the longest pause.
#
#   scripts/bench-table.sh [options] [workload...]         all workloads without any
#
#   -r N      runs of each workload (5)
#   -c LIST   numbers of cores, separated by commas (1,2)
#   -e N      events of each run (each workload's own number)
#   -p NAME   cargo profile (bench: thin LTO, one codegen unit)
#   -x ARG    an argument for the program `workloads`; may be repeated
#   -h        this help
#
# Rounds alternate: each workload runs once before any runs again, so that a disturbance of the
# machine does not hit all runs of one. Progress goes to stderr. Runs that differ in the checksum
# of their rows fail the script.
set -euo pipefail

usage() {
    sed -n '2,/^set /{ /^#/s/^# \{0,1\}//p; }' "${BASH_SOURCE[0]}"
}

fail() {
    echo "bench-table.sh: $*" >&2
    exit 1
}

runs=5
cores=1,2
profile=bench
extra=()
while getopts 'r:c:e:p:x:h' option; do
    case $option in
    r) runs=$OPTARG ;;
    c) cores=$OPTARG ;;
    e) extra+=(--events "$OPTARG") ;;
    p) profile=$OPTARG ;;
    x) extra+=("$OPTARG") ;;
    h) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[[ $runs =~ ^[1-9][0-9]*$ ]] || fail "-r is '$runs': give a number of runs, at least 1"
[[ $cores =~ ^[1-9][0-9]*(,[1-9][0-9]*)*$ ]] || fail "-c is '$cores': give numbers such as 1,2"
workloads=("$@")
((${#workloads[@]})) || workloads=(w1 w2 w7 q0 q1 q2 q3 q4 q5 q7 q8)
IFS=, read -ra cores <<<"$cores"

cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo build -p tidemill-benches --bin workloads --profile "$profile" >&2
case $profile in
dev | test) folder=debug ;;
bench) folder=release ;;
*) folder=$profile ;;
esac
program=${CARGO_TARGET_DIR:-target}/$folder/workloads

results=$(mktemp)
trap 'rm -f "$results"' EXIT
for ((run = 1; run <= runs; run++)); do
    for workload in "${workloads[@]}"; do
        for n in "${cores[@]}"; do
            echo "run $run of $runs: $workload, cores $n" >&2
            "$program" --workload "$workload" --cores "$n" --json "${extra[@]}" >>"$results" ||
                fail "$workload with $n cores failed, its error is above"
        done
    done
done

# The machine and what was measured.
model=$(LC_ALL=C lscpu | awk -F': *' '/^Model name/ { print $2; exit }')
commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo 'no commit')
if [[ $commit != 'no commit' && -n $(git status --porcelain 2>/dev/null) ]]; then
    commit+=' with uncommitted changes'
fi
cat <<EOF
- Machine: ${model:-unknown CPU}, $(nproc) cores, $(awk '/^MemTotal/ { printf "%.1f GiB", $2 / 1048576 }' /proc/meminfo), $(uname -sr)
- Built by: $(rustc --version), profile $profile
- Commit: $commit
- Runs of each: $runs; load average before the table was printed: $(cut -d' ' -f1-3 /proc/loadavg)

| workload | cores | events | events/s, median | min | max | allocations/event | peak RSS, MiB | longest pause, ms |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
EOF

# One JSON object a line, its values numbers or strings without commas.
awk '
function field(name,    at, text) {
    at = index($0, "\"" name "\":")
    if (!at) return "-"
    text = substr($0, at + length(name) + 3)
    sub(/[,}].*/, "", text)
    gsub(/"/, "", text)
    return text
}
# The value at position `which` (0 to 1) of a list in which runs are separated by spaces.
function rank(list, which,    n, v, i, j, t) {
    n = split(list, v, " ")
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
    i = 1 + which * (n - 1)
    return i == int(i) ? v[i] : (v[int(i)] + v[int(i) + 1]) / 2
}
function thousands(x,    text, out) {
    text = sprintf("%.0f", x)
    for (out = ""; length(text) > 3; text = substr(text, 1, length(text) - 3))
        out = "," substr(text, length(text) - 2) out
    return text out
}
{
    workload = field("workload")
    row = workload SUBSEP field("cores")
    if (!(row in events)) { order[++rows] = row; events[row] = field("events") }
    speed[row] = speed[row] " " field("events_per_s")
    allocations[row] = allocations[row] " " field("allocations_per_event")
    memory[row] = memory[row] " " field("peak_rss_mib")
    pause[row] = pause[row] " " field("longest_pause_ms")
    result = field("rows") " rows, checksum " field("checksum")
    if (workload in results && results[workload] != result) {
        print workload " differs: " results[workload] "; " result > "/dev/stderr"
        differs = 1
    }
    results[workload] = result
}
END {
    for (i = 1; i <= rows; i++) {
        row = order[i]
        split(row, key, SUBSEP)
        # NaN is null in JSON: too few events to reach the half.
        a = allocations[row] ~ /null|-$/ ? "-" : sprintf("%.2g", rank(allocations[row], 0.5))
        printf "| %s | %s | %s | %s | %s | %s | %s | %s | %.2f |\n", key[1], key[2], \
            thousands(events[row]), thousands(rank(speed[row], 0.5)), \
            thousands(rank(speed[row], 0)), thousands(rank(speed[row], 1)), a, \
            thousands(rank(memory[row], 0.5)), rank(pause[row], 0.5)
    }
    exit differs
}' "$results"
