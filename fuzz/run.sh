#!/usr/bin/env bash
# Fuzzes targets one after the other and says of each: inputs tried, inputs kept, peak memory, findings.
#
#   fuzz/run.sh SECONDS [TARGET ...]      default: all of them
#
# docs/how-to/fuzz.md says what has to be installed. Findings lie in fuzz/artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?how many seconds for each target}
shift
export RUSTC_BOOTSTRAP=1
# Inputs go through files: they lie in memory, and in a folder that is gone afterwards.
TMPDIR=$(mktemp -d -p /dev/shm)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
[ -d fuzz/corpus ] || cargo fuzz run --dev -s none seeds
[ $# -gt 0 ] || mapfile -t targets < <(cargo fuzz list | grep -vx seeds)
for target in "${@:-${targets[@]}}"; do
    log=$TMPDIR/$target.log
    result="no finding"
    cargo fuzz run --dev -s none "$target" -- -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 \
        -print_final_stats=1 >"$log" 2>&1 || result="FINDING, see fuzz/artifacts/$target"
    number() { sed -n "s/^stat::$1: *//p" "$log"; }
    kept=$(grep -o 'corp: [0-9]*' "$log" | tail -1 | cut -d' ' -f2)
    echo "$target: $(number number_of_executed_units) inputs, ${kept:-0} kept, $(number peak_rss_mb) MB, $result"
    [ "$result" = "no finding" ] || tail -25 "$log"
done
