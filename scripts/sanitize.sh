#!/usr/bin/env bash
# Runs the tests of the crates with unsafe code under a sanitizer.
#
#   scripts/sanitize.sh address|thread [arguments of cargo test, such as a test's name]
#
# Needs no installation: it takes the nightly toolchain where there is one, else the stable one with
# RUSTC_BOOTSTRAP=1. Where that toolchain has the component rust-src, the standard library is built with
# the sanitizer too (-Zbuild-std); elsewhere only our crates and their dependencies are, and the thread
# sanitizer sees neither std's locks nor its channels: scripts/tsan-std.supp lists the false alarms that
# follow, and a test that passes data to another thread under a std Mutex alone needs rust-src.
#
# The target directory is "$CARGO_TARGET_DIR-address" or "-thread" where that variable is set,
# target/sanitize-address or -thread otherwise.
set -euo pipefail

usage() {
    echo "usage: scripts/sanitize.sh address|thread [arguments of cargo test]" >&2
    exit 2
}

[[ $# -ge 1 ]] || usage
sanitizer=$1
shift
# Crates whose unsafe code is worth the time; only the ring is touched by two threads at once.
case $sanitizer in
    address) crates=(tidemill-ring tidemill-base tidemill-keyed) ;;
    thread) crates=(tidemill-ring) ;;
    *) usage ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -n "${CARGO_TARGET_DIR:-}" ]]; then
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR%/}-$sanitizer"
else
    export CARGO_TARGET_DIR="$PWD/target/sanitize-$sanitizer"
fi

toolchain=()
if rustc +nightly --version >/dev/null 2>&1; then
    toolchain=(+nightly)
else
    export RUSTC_BOOTSTRAP=1
fi

host=$(rustc "${toolchain[@]}" -vV | sed -n 's/^host: //p')
sysroot=$(rustc "${toolchain[@]}" --print sysroot)
flags="-Zsanitizer=$sanitizer -Cforce-frame-pointers=yes"
build_std=()
if [[ -f "$sysroot/lib/rustlib/src/rust/library/Cargo.lock" ]]; then
    build_std=(-Zbuild-std)
else
    # The standard library that was not built with the sanitizer links all the same.
    flags+=" -Cunsafe-allow-abi-mismatch=sanitizer"
fi
export RUSTFLAGS="${RUSTFLAGS:-} $flags"

if [[ $sanitizer == thread ]]; then
    export TSAN_OPTIONS="halt_on_error=1 ${TSAN_OPTIONS:-}"
    if [[ ${#build_std[@]} -eq 0 ]]; then
        TSAN_OPTIONS+=" suppressions='$PWD/scripts/tsan-std.supp'"
    fi
fi

# An explicit --target keeps the sanitizer out of build scripts and macros. Doc tests are left out: they
# would need the flags once more and hold no unsafe code.
for crate in "${crates[@]}"; do
    echo "== $crate, $sanitizer sanitizer, rustc ${toolchain[*]:-stable} ${build_std[*]:-(std as it is)}"
    cargo "${toolchain[@]}" test "${build_std[@]}" --target "$host" -p "$crate" --lib --tests "$@"
done
