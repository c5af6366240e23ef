#!/usr/bin/env bash
# Fuzzes each target for some seconds: tools/fuzz.sh SECONDS [TARGET...]. Called by `make fuzz`.
# With cargo-fuzz and a nightly toolchain: libFuzzer with the address sanitizer. Without them: libFuzzer with coverage
# only, which the stable toolchain supports. Without a C++ compiler: the driver of our own tests.
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

seconds=${1:?seconds per target}
shift
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
    for program in fuzz/fuzz_targets/*.rs; do
        targets+=("$(basename "$program" .rs)")
    done
fi
host=$(rustc -vV | sed -n 's/^host: //p')
if [ -x "$cache/fuzz-tools/bin/cargo-fuzz" ]; then
    PATH="$cache/fuzz-tools/bin:$PATH"
fi

stable=(--release --manifest-path fuzz/Cargo.toml --target "$host")
if ! command -v "${CXX:-c++}" >/dev/null; then
    echo 'fuzz: skipping libFuzzer, since there is no C++ compiler to build it; running our own driver instead'
    export TINYGATE_FUZZ_SECONDS=$seconds
    run_cargo test --package tinygate-testing --test fuzz -- --nocapture --test-threads 1
    exit
fi
export CARGO_TARGET_DIR=$CARGO_TARGET_DIR/fuzz
if cargo fuzz --version >/dev/null 2>&1 && cargo +nightly --version >/dev/null 2>&1; then
    echo "fuzz: $(cargo fuzz --version), $(rustc +nightly --version), with the address sanitizer"
    cargo +nightly fuzz build --target-dir "$CARGO_TARGET_DIR"
else
    echo 'fuzz: without the address sanitizer, which needs cargo-fuzz (`cargo install cargo-fuzz`) and a nightly toolchain'
    # The flags that cargo-fuzz passes to rustc, without those that need nightly. With --target they do not apply to
    # build scripts.
    coverage=(
        -Cpasses=sancov-module
        -Cllvm-args=-sanitizer-coverage-level=4
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
        -Cllvm-args=-sanitizer-coverage-pc-table
        -Cllvm-args=-sanitizer-coverage-trace-compares
        -Ccodegen-units=1
    )
    RUSTFLAGS="${RUSTFLAGS:-} ${coverage[*]}" cargo build "${stable[@]}"
fi

# New inputs and findings go into separate folders, not to the committed ones.
for target in "${targets[@]}"; do
    inputs=$cache/fuzz/$target
    mkdir -p "$inputs" "$cache/fuzz/findings"
    committed=("fuzz/corpus/$target")
    if [ -d "fuzz/regressions/$target" ]; then
        committed+=("fuzz/regressions/$target")
    fi
    printf '\nfuzz: %s, %s seconds\n' "$target" "$seconds"
    log=$cache/fuzz/$target.log
    if ! "$CARGO_TARGET_DIR/$host/release/$target" "$inputs" "${committed[@]}" \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -malloc_limit_mb=1024 -max_len=16384 \
        -artifact_prefix="$cache/fuzz/findings/$target-" -print_final_stats=1 2>"$log"; then
        tail -n 60 "$log"
        echo "fuzz: $target: found a failure, see $cache/fuzz/findings; add it to fuzz/regressions/$target with the fix" >&2
        exit 1
    fi
    grep -E '^(Done|stat::(number_of_executed_units|new_units_added|peak_rss_mb))' "$log"
done
