#!/usr/bin/env bash
# run.sh MINUTES [TARGET...]: each target for so long, from tests/corpus and from what earlier runs have found
# (fuzz/corpus). What fails is left in fuzz/artifacts: put it into tests/corpus, where every test run replays it.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=$1
shift

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
# The crate's own dependencies as they are built everywhere else.
cp Cargo.lock fuzz/Cargo.lock
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list)
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target"
    # No sanitizer: no line here is unsafe, and what is looked for panics by itself.
    cargo +nightly fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "tests/corpus/$target" -- \
        -max_total_time=$((minutes * 60)) -print_final_stats=1
done
