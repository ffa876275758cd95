#!/usr/bin/env bash
# Compiles every kernel for NVIDIA cards without a card: the program that check_gpu.sh packs runs on a stand-in for the driver
# (scripts/cuda_stand_in.c), so that NVRTC compiles each kernel that a training step or a test launches, for each architecture.
# Results of kernels are not computed, so tests are expected to fail where they compare numbers; what counts is that each kernel
# compiles, loads and is launched within the card's limits, with tensors whose rows follow each other as it expects.
#
#   scripts/check_cuda_kernels.sh FOLDER [ARCH…]      FOLDER: what check_gpu.sh's package unpacks to; default: 80 90
#
# Prints a line for each kernel: registers, spilled bytes, shared memory. Fails if one does not compile or load.
# Needs cc and pip: NVRTC, headers and ptxas come from PyPI once (about 150 MB, into target/nvrtc).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
fail() { echo "check_cuda_kernels: $*" >&2; exit 1; }
case "${1:-}" in "" | -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
folder=$(cd "$1" && pwd)
shift
[ -x "$folder/card" ] || fail "$folder/card: not found"
[ $# -gt 0 ] || set -- 80 90

cuda=13.0 # of the driver too: PTX of a newer NVRTC is refused
site=$here/../target/nvrtc
if ! [ -e "$site/made" ]; then
    "${PYTHON:-python3}" -m pip install --quiet --root-user-action ignore --no-deps --upgrade --target "$site" \
        "nvidia-cuda-nvrtc==$cuda.*" "nvidia-cuda-runtime==$cuda.*" "nvidia-cuda-nvcc==$cuda.*" "nvidia-cuda-crt==$cuda.*" "nvidia-cuda-cccl==$cuda.*"
    touch "$site/made"
fi
site=$(cd "$site" && pwd)/nvidia/cu13
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/lib" "$work/home"
cc -O1 -shared -fPIC -o "$work/lib/libcuda.so.1" "$here/cuda_stand_in.c"
ln -s "$site"/lib/libnvrtc* "$work/lib/"

all=true
for arch in "$@"; do
    ptx=$work/sm_$arch
    mkdir "$ptx"
    on_stand_in() {
        env -i PATH="$PATH" HOME="$work/home" XDG_RUNTIME_DIR="$work" LD_LIBRARY_PATH="$folder/lib:$work/lib" CUDA_PATH="$site" \
            LAPIDARY_TEST_DEVICE=cuda CUDA_STAND_IN_ARCH="$arch" CUDA_STAND_IN_PTX="$ptx" \
            LAPIDARY_BENCH_SIZES=768,24576,32,2048 LAPIDARY_BENCH_ROUNDS=1 LAPIDARY_BENCH_PATIENCE=60 LAPIDARY_BENCH_RESULT="$work/bench.json" \
            timeout "${limit:-600}" "$folder/card" "$@" >>"$work/$arch.log" 2>&1
    }
    on_stand_in --exact devices --ignored --nocapture || fail "sm_$arch: no device: $(tail -n 20 "$work/$arch.log")"
    on_stand_in --exact benchmark --ignored --nocapture || { all=false; echo "sm_$arch: the benchmark failed: $(tail -n 20 "$work/$arch.log")"; }
    on_stand_in --nocapture --test-threads 2 --skip encode_threshold || true
    # Codes as wide as whatever was in memory: it launches each kernel, and then goes on for hours.
    limit=60 on_stand_in --nocapture encode_threshold || true
    # What the program says of a kernel that NVRTC or the driver refuses.
    if grep -anE 'caused the compilation to fail|unsupported operation|Compilation Error|Unable to load the PTX|Unable to fetch the function|CUDA_ERROR_|a kernel was given' "$work/$arch.log" | sort -u | head -n 20 | grep .; then
        all=false
        echo "sm_$arch: kernels were refused"
    fi
    target=sm_$arch
    [ "$arch" -lt 90 ] || target=sm_${arch}a
    printf '%-8s %-64s %9s %7s %7s\n' arch kernel registers spilled shared
    for file in "$ptx"/*.ptx; do
        "$site/bin/ptxas" -v -arch "$target" -o "$work/out.cubin" "$file" 2>"$work/ptxas.txt" ||
            { all=false; echo "$target: ptxas refuses $file: $(cat "$work/ptxas.txt")"; continue; }
        name=$(sed -n 's/.*\.entry \([A-Za-z0-9_]*\)(.*/\1/p' "$file" | head -1)
        sed -n "s/.* \([0-9]*\) bytes spill stores.*/spilled \1/p; s/.*Used \([0-9]*\) registers.*/registers \1/p; s/.*, \([0-9]*\) bytes smem.*/shared \1/p" "$work/ptxas.txt" |
            awk -v target="$target" -v name="$name" '{ of[$1] = $2 } END { printf "%-8s %-64s %9s %7s %7s\n", target, substr(name, 1, 64), of["registers"], of["spilled"] + 0, of["shared"] + 0 }'
    done | sort | uniq -c | sort -k3
    echo "sm_$arch: $(find "$ptx" -name '*.ptx' | wc -l) kernels compiled"
done
$all
