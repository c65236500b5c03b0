#!/usr/bin/env bash
# The word count of the classic tutorial on real text: killed with SIGKILL in the middle, restored from its last
# checkpoint, and compared with a run that was never killed. Succeeds only where the two outputs are byte-identical.
#
#   FILE=path          the text to count (default: text that this machine has, TEXT_MB megabytes of it)
#   TEXT_MB=8          how much of that
#   RUN_SECONDS=15     how long the killed run would take if it were left alone; sets the rate of its source
#   PARALLELISM=4      subtasks
#   KEEP=1             keep the work directory (a run that fails always keeps it)
#   PROGRAM=path       the program to run instead of building the example (used to test this script)
#
# What the program must honour: --input FILE, --output DIR, --rate RECORDS_PER_SECOND (of the whole source), and the
# engine's --parallelism, --checkpoint-dir, --checkpoint-interval, --restore. A checkpoint is complete when its
# directory chk-<epoch> holds a manifest; a file of the output is committed when its name starts with part-.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TEXT_MB=${TEXT_MB:-8}
RUN_SECONDS=${RUN_SECONDS:-15}
PARALLELISM=${PARALLELISM:-4}
CHECKPOINT_INTERVAL=1s

say() { printf '%s\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }
step() { printf '\n== %s\n' "$*"; }

for number in TEXT_MB RUN_SECONDS PARALLELISM; do
    [[ ${!number} =~ ^[1-9][0-9]*$ ]] || die "$number is '${!number}': give a whole number above 0"
done

work=$(mktemp -d "${TMPDIR:-/tmp}/tidemill-demo.XXXXXX")
child=''
keep=${KEEP:-0}

cleanup() {
    local code=$?
    trap - EXIT
    if [[ -n $child ]]; then
        kill -9 "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    if [[ $keep == 1 ]]; then
        printf '\nkept: %s\n' "$work" >&2
    else
        rm -rf "$work"
    fi
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

now_ms() { local now=${EPOCHREALTIME/[.,]/}; printf '%s' $((now / 1000)); }
seconds() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }

# --- the program and its text -------------------------------------------------------------------------------------

build() {
    if [[ -n ${PROGRAM:-} ]]; then
        program=$PROGRAM
    else
        local target=${CARGO_TARGET_DIR:-$HOME/.cache/tidemill/target}
        step 'build (the first takes a few minutes)'
        CARGO_TARGET_DIR=$target cargo build --release -p tidemill-examples --example word_count
        program=$target/release/examples/word_count
    fi
    [[ -x $program ]] || die "$program is not an executable program"
}

# Prose first; every Debian machine has the licences and copyright files, most have Perl's modules and manuals.
text_files() {
    find /usr/share/common-licenses -type f 2>/dev/null | LC_ALL=C sort
    find /usr/share/perl -type f -name '*.pod' 2>/dev/null | LC_ALL=C sort
    find /usr/share/doc -type f \( -name copyright -o -name 'README*' -o -name '*.txt' -o -name 'NEWS*' \) \
        ! -name '*.gz' 2>/dev/null | LC_ALL=C sort
    find /usr/share/perl -type f -name '*.pm' 2>/dev/null | LC_ALL=C sort
}

# Writes TEXT_MB megabytes of valid UTF-8; repeats what there is where that is less.
make_text() {
    local wanted=$((TEXT_MB << 20)) once="$work/once.txt" size
    # head closes the pipe when it has enough: the writers' broken pipe is no failure.
    { text_files | tr '\n' '\0' | xargs -0 cat 2>/dev/null || true; } |
        head -c "$wanted" | tr -d '\000\r' | { iconv -c -f UTF-8 -t UTF-8 || true; } >"$once"
    echo >>"$once"
    size=$(stat -c %s "$once")
    ((size > 1000)) || die 'found no text under /usr/share: give a file with FILE=path'
    while (($(stat -c %s "$input" 2>/dev/null || echo 0) < wanted)); do
        cat "$once" >>"$input"
    done
    rm "$once"
}

prepare_input() {
    if [[ -n ${FILE:-} ]]; then
        [[ -f $FILE && -r $FILE ]] || die "FILE is '$FILE': not a readable file"
        input=$(realpath "$FILE")
        iconv -f UTF-8 -t UTF-8 "$input" >/dev/null 2>&1 ||
            die "$input is not UTF-8 text: convert it first, e.g. with iconv -f LATIN1 -t UTF-8"
    else
        input=$work/text.txt
        make_text
    fi
    records=$(wc -l <"$input")
    ((records >= RUN_SECONDS)) || die "$input has only $records lines: too few to be killed in the middle"
    rate=$((records / RUN_SECONDS))
    say "text: $input, $(($(stat -c %s "$input") >> 10)) KiB, $records lines"
}

# --- running and looking ------------------------------------------------------------------------------------------

# run_job NAME [FLAG...] replaces this (sub)shell by the program, so that $! is the program's own pid.
run_job() {
    local name=$1
    shift
    exec "$program" --input "$input" --output "$work/$name/out" --parallelism "$PARALLELISM" \
        --checkpoint-dir "$work/$name/checkpoints" --checkpoint-interval "$CHECKPOINT_INTERVAL" "$@"
}

# The highest epoch whose checkpoint is complete, or 0.
last_epoch() {
    { find "$work/$1/checkpoints" -type f -ipath '*/chk-*/manifest*' ! -name '*.tmp' 2>/dev/null || true; } |
        sed -n 's:.*/chk-0*\([0-9][0-9]*\)/[^/]*$:\1:p' | sort -n | tail -n 1 | grep . || echo 0
}

# The committed files of a run; whatever is hidden is in progress.
committed() { find "$work/$1/out" -name '.?*' -prune -o -type f -name 'part-*' -print 2>/dev/null || true; }

# All committed rows of a run, in an order that does not depend on which subtask wrote them.
collect_rows() { committed "$1" | tr '\n' '\0' | xargs -0 -r cat | LC_ALL=C sort >"$work/$1.rows"; }

# Sets `status` to the exit code of the child that was started last.
await_child() {
    status=0
    # The shell's own notice of a killed child is not wanted: this script says it better.
    { wait "$child" || status=$?; } 2>/dev/null
    child=''
}

start_job() {
    mkdir -p "$work/$1/out"
    run_job "$@" </dev/null &
    child=$!
}

uninterrupted_run() {
    step 'run A: never killed'
    local start
    start=$(now_ms)
    # From here on there is something to look at; print_table gives it up again.
    keep=1
    start_job a
    await_child
    ((status == 0)) || die "run A failed with exit code $status"
    a_ms=$(($(now_ms) - start))
}

# Waits until the job is half through and has a complete checkpoint; returns 1 where it ended before.
await_middle() {
    local start=$1 half=$((RUN_SECONDS * 500)) limit=$((RUN_SECONDS * 2000 + 60000)) elapsed
    while kill -0 "$child" 2>/dev/null; do
        elapsed=$(($(now_ms) - start))
        if ((elapsed >= half)) && (($(last_epoch b) > 0)); then return 0; fi
        ((elapsed < limit)) || die "no complete checkpoint in $work/b/checkpoints after $(seconds "$elapsed")"
        sleep 0.1
    done
    return 1
}

killed_run() {
    step "run B: $rate lines a second, killed in the middle"
    local start pid
    start=$(now_ms)
    start_job b --rate "$rate"
    pid=$child
    if ! await_middle "$start"; then
        await_child
        (($(last_epoch b) > 0)) ||
            die "run B ended (exit code $status) without one complete checkpoint (chk-*/manifest*) in $work/b/checkpoints"
        die "run B ended (exit code $status) before it could be killed; a larger RUN_SECONDS or FILE slows it down"
    fi
    kill -9 "$pid"
    await_child
    ((status == 137)) || die "run B was sent SIGKILL but ended with exit code $status instead of 137"
    killed_ms=$(($(now_ms) - start))
    restored_epoch=$(last_epoch b)
    rows_at_kill=$(committed b | tr '\n' '\0' | xargs -0 -r cat | wc -l)
    printf '\n'
    say "kill -9 $pid, exit code 137, after $(seconds "$killed_ms"): last complete checkpoint $restored_epoch, $rows_at_kill rows committed"
}

restored_run() {
    step 'run B again: --restore latest'
    local start
    start=$(now_ms)
    start_job b --rate "$rate" --restore latest
    await_child
    ((status == 0)) || die "the restored run B failed with exit code $status"
    restored_ms=$(($(now_ms) - start))
}

compare() {
    collect_rows a
    collect_rows b
    rows=$(wc -l <"$work/a.rows")
    ((rows > 0)) || die "run A wrote no rows into $work/a/out/part-*: there is nothing to compare"
    if ! cmp -s "$work/a.rows" "$work/b.rows"; then
        step 'DIFFERENT: < never killed, > killed and restored'
        diff "$work/a.rows" "$work/b.rows" | head -n 20 || true
        die "the outputs differ: $rows rows never killed, $(wc -l <"$work/b.rows") rows killed and restored"
    fi
    ((rows_at_kill < rows)) ||
        die 'every row was committed before the kill, so it proved nothing; a larger RUN_SECONDS or FILE slows it down'
}

print_table() {
    step 'identical: nothing lost, nothing twice'
    keep=${KEEP:-0}
    local checkpoints
    checkpoints=$(last_epoch b)
    ((checkpoints >= restored_epoch)) || checkpoints=$restored_epoch
    printf '%-28s %14s %14s\n' '' 'never killed' 'killed'
    printf '%-28s %14d %14d\n' 'records (lines) read' "$records" "$records"
    printf '%-28s %14d %14d\n' 'rows (word, window, count)' "$rows" "$(wc -l <"$work/b.rows")"
    printf '%-28s %14s %14d\n' 'rows committed at the kill' - "$rows_at_kill"
    printf '%-28s %14s %14d\n' 'last checkpoint' "$(last_epoch a)" "$checkpoints"
    printf '%-28s %14s %14d\n' 'restored from checkpoint' - "$restored_epoch"
    printf '%-28s %14s %14s\n' 'time until the kill' - "$(seconds "$killed_ms")"
    printf '%-28s %14s %14s\n' 'time to the end' "$(seconds "$a_ms")" "$(seconds $((killed_ms + restored_ms)))"
}

prepare_input
build
uninterrupted_run
killed_run
restored_run
compare
print_table
