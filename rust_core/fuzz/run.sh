#!/usr/bin/env bash
# Fuzzes every target, or those that are named, for so many seconds each and keeps a small corpus and the counts. Needs g++.
# Stable Rust has no sanitizers, but its code generator can be asked for the coverage that libFuzzer wants; with a target
# named, build scripts are left alone.
set -euo pipefail

readonly SECONDS_EACH="${1:-60}" TARGETS=" ${*:2} " KEPT_MAX=25 INPUT_BYTES_MAX=4096
cd "$(dirname "${BASH_SOURCE[0]}")"
host="$(rustc -vV | sed -n 's/^host: //p')"
target_folder="${CARGO_TARGET_DIR:-target}"
results="../../loadtest/results/$(date -u +%F)-fuzz"
export RUSTFLAGS="-C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
-C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
-C llvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
cargo build --quiet --release --locked --target "$host"
mkdir -p "$results"

status=0
for file in fuzz_targets/*.rs; do
  name="$(basename "$file" .rs)"
  [[ "${TARGETS// /}" == "" || "$TARGETS" == *" $name "* ]] || continue
  program="$target_folder/$host/release/$name"
  scratch="$(mktemp -d)"
  mkdir -p "corpus/$name" "$scratch/found" "$scratch/kept"
  crashes=0
  "$program" -max_total_time="$SECONDS_EACH" -max_len="$INPUT_BYTES_MAX" -artifact_prefix="$scratch/" \
    "$scratch/found" "corpus/$name" 2>"$scratch/log" || crashes=1
  runs="$(sed -n 's/^#\([0-9]*\)\tDONE.*/\1/p; s/^Done \([0-9]*\) runs.*/\1/p' "$scratch/log" | tail -1)"
  coverage="$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$scratch/log" | tail -1)"
  if ((crashes)); then
    tail -30 "$scratch/log" >&2
    printf 'fuzz: %s crashed; the input is in %s\n' "$name" "$scratch" >&2
    status=1
  else
    "$program" -merge=1 "$scratch/kept" "corpus/$name" "$scratch/found" 2>/dev/null
    find "corpus/$name" -type f -delete
    # Evenly from the smallest to the largest: short ones reach most for their bytes, long ones what takes a history.
    find "$scratch/kept" -type f -printf '%s %p\n' | sort -n |
      awk -v kept="$KEPT_MAX" '{ of[NR] = $2 } END { n = NR < kept ? NR : kept
        for (i = 0; i < n; i++) print of[1 + int(i * NR / n)] }' |
      xargs --no-run-if-empty cp --target-directory="corpus/$name"
    rm -rf "$scratch"
  fi
  printf '{"target": "%s", "seconds": %d, "runs": %d, "coverage": %d, "crashes": %d, "at": "%s"}\n' \
    "$name" "$SECONDS_EACH" "${runs:-0}" "${coverage:-0}" "$crashes" "$(date -u +%FT%TZ)" |
    tee -a "$results/counts.jsonl"
done
exit "$status"
