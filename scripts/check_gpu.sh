#!/usr/bin/env bash
# Everything that is to be known of an NVIDIA card: kernel tests on it, compute-sanitizer, and the benchmarks G1 and G2 beside sparsify.
#
#   scripts/check_gpu.sh pack [FILE]      builds with CUDA and packs what the card's machine needs (default: target/check_gpu.tar.zst)
#   scripts/check_gpu.sh run [FOLDER]     there, in the unpacked folder: runs all of it, results in FOLDER (default: results)
#
# pack needs LLVM (see docs/how-to/cuda.md; scripts/llvm_for_cuda.sh static makes a program that carries it) and zstd.
# run needs no Rust: the driver, NVRTC, and for the comparison a Python with PyTorch for CUDA, eai-sparsify, sae-lens and
# dictionary-learning (LAPIDARY_PEERS_PYTHON names it; default: python3). What is missing is said and skipped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

pack() {
    local file=${1:-$here/../target/check_gpu.tar.zst} folder tests
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    cd "$here/.."
    cargo build --workspace --features cuda
    tests=$(cargo test --workspace --features cuda --test kernels --no-run --message-format json |
        sed -n 's/.*"executable":"\([^"]*kernels-[^"]*\)".*/\1/p' | tail -1)
    mkdir "$folder/scripts"
    cp "${CARGO_TARGET_DIR:-target}/debug/lapidary" "$folder/lapidary"
    cp "$tests" "$folder/kernel_tests"
    cp scripts/check_gpu.sh scripts/bench_peers.py "$folder/scripts/"
    strip "$folder/lapidary" "$folder/kernel_tests"
    tar -C "$folder" -c . | zstd -q -19 -T0 -f -o "$file"
    ls -l "$file"
}

run() {
    local results=${1:-results} name
    mkdir -p "$results"
    export LAPIDARY_PEERS_PYTHON=${LAPIDARY_PEERS_PYTHON:-$(command -v python3)}
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$results/card.csv"
    ./lapidary devices | tee "$results/devices.txt"
    # Each of these is told apart: one that fails must not keep the others from being run.
    step "$results" kernel_tests ./kernel_tests
    if command -v compute-sanitizer >/dev/null; then
        step "$results" sanitizer compute-sanitizer --error-exitcode 1 ./kernel_tests --test-threads 1 encode_topk
    else
        echo "compute-sanitizer: not found, skipped"
    fi
    for name in G1 G2; do
        step "$results" "$name" ./lapidary bench --device cuda --config "$name" --vs-peers --json
    done
}

step() {
    local results=$1 name=$2 status=0
    shift 2
    "$@" >"$results/$name.txt" 2>"$results/$name.err" || status=$?
    echo "$name: exit $status"
    tail -n 30 "$results/$name.txt"
    [ "$status" = 0 ] || tail -n 20 "$results/$name.err"
}

case "${1:-}" in
    pack | run) "$@" ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; [ $# = 0 ] || exit 2 ;;
esac
