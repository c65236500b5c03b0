#!/usr/bin/env bash
# Installs what the build needs from the distribution's packages, and checks the Rust toolchain.
#
#   scripts/install-deps.sh           compiler, make, git, pkg-config
#   scripts/install-deps.sh rocksdb   also what the bundled RocksDB needs: a C++20 compiler, and libclang with its
#                                     headers, which bindgen loads while it builds (cmake is not needed)
#   scripts/install-deps.sh rocksdb-system
#                                     also the distribution's RocksDB, for tests, and libclang
#   scripts/install-deps.sh postgres  also PostgreSQL's server, which tests start (the package itself starts one, too)
#   scripts/install-deps.sh hosts     also ip, with which tests make network namespaces
#   scripts/install-deps.sh fuzz      also Python's virtual environments, for the fuzzer of REST
#   scripts/install-deps.sh lint      also checks that rustfmt and clippy are there
#
# Silent and without network when nothing is missing. Never installs Rust itself: it says how to.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'install-deps: %s\n' "$*"; }
die() { printf 'install-deps: %s\n' "$*" >&2; exit 1; }

# Parallel arrays: a distribution package, and why it is wanted.
packages=() reasons=()
# The prefix that makes a command run as root; empty for root.
sudo=()
want() { packages+=("$1"); reasons+=("$2"); }

has() { command -v "$1" >/dev/null 2>&1; }

# Debian keeps libclang under the directory of its LLVM version; LIBCLANG_PATH is bindgen's own way to name another.
has_libclang() {
    [[ -n ${LIBCLANG_PATH:-} ]] && return 0
    compgen -G '/usr/lib/llvm-*/lib/libclang.so*' >/dev/null &&
        compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null
}

# A compiler without the C library's headers cannot build anything, so the headers are asked for too.
find_missing_base() {
    if ! has cc || ! [[ -e /usr/include/stdlib.h ]]; then
        want gcc 'C compiler and linker: rustc links with cc, glommio builds liburing'
        want libc6-dev 'headers of the C library'
    fi
    has make || want make 'runs the targets of the Makefile'
    has git || want git 'glommio calls git while it builds'
    has curl || want curl 'tests of the command send requests with it, as its documentation does'
    has pkg-config || want pkg-config 'crates with C code look for system libraries with it'
    [[ -d /etc/ssl/certs && -e /etc/ssl/certs/ca-certificates.crt ]] ||
        want ca-certificates 'cargo fetches crates over HTTPS'
}

find_missing_rocksdb() {
    has c++ || want g++ 'RocksDB is C++20'
    has_libclang || want libclang-dev 'bindgen reads the header of RocksDB with libclang'
}

find_missing_rocksdb_system() {
    pkg-config --exists rocksdb 2>/dev/null || want librocksdb-dev 'the RocksDB that tests use'
    has_libclang || want libclang-dev 'bindgen reads the header of RocksDB with libclang'
}

find_missing_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || want postgresql 'the server that tests of metadata start'
}

find_missing_hosts() {
    has ip || want iproute2 'tests make several hosts on one machine, by network namespaces'
}

find_missing_fuzz() {
    python3 -c 'import ensurepip, venv' 2>/dev/null || want python3-venv 'the fuzzer of REST is installed into an environment of its own'
}

# Its many lines are shown only when it fails.
run_apt() {
    local output
    output=$("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q "$@" 2>&1 </dev/null) || {
        printf '%s\n' "$output" >&2
        die "'apt-get $*' failed: see its output above"
    }
}

install_missing() {
    ((${#packages[@]})) || return 0
    local i
    say 'missing on this machine:'
    for i in "${!packages[@]}"; do
        printf '  %-16s %s\n' "${packages[$i]}" "${reasons[$i]}"
    done
    has apt-get || die "this is not Debian or Ubuntu (no apt-get): install the equivalents of '${packages[*]}' by hand, then run this again"
    if [[ $(id -u) != 0 ]]; then
        has sudo || die "not root, and sudo is not installed: as root, run 'apt-get install ${packages[*]}', then run this again"
        sudo=(sudo)
    fi
    say "installing with apt-get: ${packages[*]}"
    run_apt update
    run_apt install -y --no-install-recommends "${packages[@]}"
    say 'installed'
}

how_to_get_rust() {
    cat >&2 <<'TEXT'
install-deps: get it with rustup, the installer of the Rust project:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh
    . "$HOME/.cargo/env"
then run this again. Where rustup is there already: rustup update stable
TEXT
    exit 1
}

check_rust() {
    local wanted found
    has cargo || PATH="$PATH:$HOME/.cargo/bin"
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1)
    if ! has cargo || ! has rustc; then
        printf 'install-deps: cargo or rustc is not on the PATH; Tidemill needs Rust %s or newer\n' "$wanted" >&2
        how_to_get_rust
    fi
    found=$(rustc --version | cut -d' ' -f2) || die "'rustc --version' failed: see its message above"
    if [[ $(printf '%s\n%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1) != "$wanted" ]]; then
        printf 'install-deps: rustc is %s; Tidemill needs Rust %s or newer\n' "$found" "$wanted" >&2
        how_to_get_rust
    fi
}

check_lint_tools() {
    local tool
    for tool in rustfmt clippy; do
        "cargo-${tool/rustfmt/fmt}" --version >/dev/null 2>&1 ||
            die "the component $tool is missing: run 'rustup component add $tool'"
    done
}

# Only warnings: building needs neither, running a job does.
check_kernel() {
    local memlock disabled
    memlock=$(ulimit -l)
    [[ $memlock == unlimited || $memlock -ge 512 ]] ||
        say "warning: this shell may lock only $memlock KiB of memory; io_uring needs 512: raise 'ulimit -l'"
    disabled=$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)
    [[ $disabled == 0 || ($disabled == 1 && $(id -u) == 0) ]] ||
        say "warning: io_uring is switched off (kernel.io_uring_disabled=$disabled): run 'sysctl kernel.io_uring_disabled=0' as root"
}

main() {
    local argument lint=0
    [[ $(uname -s) == Linux ]] || die "Tidemill runs on Linux only (io_uring); this is $(uname -s)"
    find_missing_base
    for argument in "$@"; do
        case $argument in
            rocksdb) find_missing_rocksdb ;;
            rocksdb-system) find_missing_rocksdb_system ;;
            postgres) find_missing_postgres ;;
            hosts) find_missing_hosts ;;
            fuzz) find_missing_fuzz ;;
            lint) lint=1 ;;
            *) die "unknown argument '$argument': known are 'rocksdb', 'rocksdb-system', 'postgres', 'hosts', 'fuzz' and 'lint'" ;;
        esac
    done
    install_missing
    check_rust
    ((lint)) && check_lint_tools
    check_kernel
}

main "$@"
