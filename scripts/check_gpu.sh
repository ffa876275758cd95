#!/usr/bin/env bash
# Everything that is to be known of an NVIDIA card: kernel tests on it, training beside the CPU's, compute-sanitizer, and the
# benchmarks G1 and G2, alone and beside PyTorch's tools.
#
#   scripts/check_gpu.sh pack [FILE]       builds with CUDA and packs what the card's machine needs, at most 35 MiB
#                                          (default: target/check_gpu.tar.xz)
#   scripts/check_gpu.sh run [OPTIONS]     there, in the unpacked folder: runs all of it within eight minutes, prints one JSON
#       --device cuda|wgpu|cpu             default: cuda; the others rehearse all but the card, at small sizes
#       --out FOLDER                       for summary.json and log.txt (default: results)
#       --limit SECONDS                    for all of it (default: 460; in a rehearsal eight times that)
#
# LAPIDARY_CARD_PROFILE=dev packs what `cargo build --workspace --features cuda` has mostly built already: larger, and what
# launches kernels is not optimized, so its times on a card mean less.
# pack needs LLVM 22 where the build looks for it (scripts/llvm_for_cuda.sh, see docs/how-to/cuda.md), cc, xz, and pip for
# sparsify. run needs no Rust: bash, timeout, the driver, NVRTC and CUDA's headers; for comparisons a Python with PyTorch
# (LAPIDARY_PEERS_PYTHON; default: python3). What is missing is said in the JSON, and the rest is run.
# LAPIDARY_PEERS names the tools to compare with (default: sparsify,pytorch at G1, sparsify at G2).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
fail() { echo "check_gpu: $*" >&2; exit 1; }

pack() {
    local file=${1:-$here/../target/check_gpu.tar.xz} folder program needed newest size
    local most=$((35 << 20)) profile=${LAPIDARY_CARD_PROFILE:-card}
    mkdir -p "$(dirname "$file")"
    file=$(cd "$(dirname "$file")" && pwd)/$(basename "$file")
    folder=$(mktemp -d)
    # shellcheck disable=SC2064 # the variable is gone when the trap runs
    trap "rm -rf '$folder'" EXIT
    cd "$here/.."
    program=$(cargo test --profile "$profile" --workspace --features cuda --test card --no-run --message-format json |
        sed -n 's/.*"executable":"\([^"]*\/card-[^"]*\)".*/\1/p' | tail -1)
    [ -n "$program" ] || fail "the build named no program"
    mkdir -p "$folder/scripts" "$folder/lib"
    strip -o "$folder/card" "$program"
    scripts/llvm_stand_in.sh "$folder/card" "$folder/lib" >&2
    cp scripts/check_gpu.sh scripts/bench_peers.py scripts/card_ceilings.py "$folder/scripts/"

    # Where it goes there is glibc of an older system and little else.
    needed=$(readelf -d "$folder/card" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p')
    echo "needs: ${needed//$'\n'/ }" >&2
    for library in $needed; do
        case $library in
            libc.so.6 | libm.so.6 | libgcc_s.so.1 | ld-linux-x86-64.so.2 | libdl.so.2 | libpthread.so.0 | librt.so.1) ;;
            libstdc++.so.6) ;; # CUDA's tools and PyTorch need it too
            libLLVM*) [ -e "$folder/lib/$library" ] || fail "$library: found no stand-in" ;;
            *) fail "the program needs $library, which the card's machine may lack" ;;
        esac
    done
    newest=$(objdump -T "$folder/card" | sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort -Vu | tail -1)
    echo "newest glibc symbol: $newest" >&2
    [ "$(printf '%s\n2.35\n' "$newest" | sort -V | tail -1)" = 2.35 ] || fail "needs glibc $newest, expected at most 2.35 (Ubuntu 22.04)"
    newest=$(objdump -T "$folder/card" | sed -n 's/.*GLIBCXX_\([0-9.]*\).*/\1/p' | sort -Vu | tail -1)
    [ "$(printf '%s\n3.4.30\n' "$newest" | sort -V | tail -1)" = 3.4.30 ] || fail "needs GLIBCXX $newest, expected at most 3.4.30 (Ubuntu 22.04)"

    # sparsify's coder and what it imports beyond PyTorch, transformers, accelerate, einops and huggingface_hub.
    "${PYTHON:-python3}" -m pip install --quiet --root-user-action ignore --no-deps --no-compile --target "$folder/site" \
        --require-hashes -r <(awk '/^[^ ]/ { wanted = /^(eai-sparsify|natsort|simple-parsing|docstring_parser)==/ } wanted' \
            scripts/requirements.txt) >&2 ||
        echo "check_gpu: sparsify could not be fetched; there it is timed only if it is installed" >&2

    tar -C "$folder" --owner 0 --group 0 --sort name -c . | xz -9e -T1 >"$file.part"
    mv "$file.part" "$file"
    size=$(stat -c %s "$file")
    echo "$file: $size bytes, $((size * 10 >> 20))e-1 MiB; unpacked $(du -sb "$folder" | cut -f1) bytes, the program $(stat -c %s "$folder/card")" >&2
    [ "$size" -le "$most" ] || fail "$file: $size bytes, expected at most $most"
}

# Other products of cubek that the encoder could use: which is fastest on this card?
products=(simple-cmma tma-cmma tma-mma double-tma-mma specialized-tma-cmma specialized-tma-mma)

# A JSON string, or null for nothing.
json() {
    local text=${1:-}
    [ -n "$text" ] || { printf null; return; }
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    text=${text//$'\t'/\\t}
    printf '"%s"' "$(tr -d '\000-\037' <<<"$text")"
}

# What a file holds, or null if it is not whole.
json_file() {
    if [ -s "$1" ] && [ "$(tail -c 2 "$1" | tr -d '\n')" = "}" ]; then cat "$1"; else printf null; fi
}

run() {
    device=cuda results=results limit="" slower=1
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || fail "$1: found no value"
        case "$1" in
            --device) device=$2 ;;
            --out) results=$2 ;;
            --limit) limit=$2 ;;
            *) fail "$1: unknown option" ;;
        esac
        shift 2
    done
    case "$device" in cuda | wgpu | cpu) ;; *) fail "--device: found $device, expected cuda, wgpu or cpu" ;; esac
    # A software driver compiles shaders for minutes; a rehearsal has the time.
    [ "$device" = cuda ] || slower=8
    limit=${limit:-$((460 * slower))}
    [[ $limit =~ ^[0-9]+$ ]] || fail "--limit: found $limit, expected seconds"
    root=$here/..
    [ -x "$root/card" ] || fail "$root/card: not found; run it in the folder that pack's file unpacks to"
    mkdir -p "$results"
    results=$(cd "$results" && pwd)
    : >"$results/log.txt"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/lib"
    started=$SECONDS card="" nvrtc="" headers="" chosen="" steps=() tests_passed=0 tests_failed=0 failed_names=() all_ok=true

    export LAPIDARY_TEST_DEVICE=$device LAPIDARY_BENCH_PATIENCE=8
    export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True XDG_RUNTIME_DIR=$work XDG_CACHE_HOME=$work TRITON_CACHE_DIR=$work/triton PYTHONDONTWRITEBYTECODE=1
    export LD_LIBRARY_PATH=$root/lib:$work/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    python=${LAPIDARY_PEERS_PYTHON:-$(command -v python3 || true)}
    export PYTHONPATH=$root/site${PYTHONPATH:+:$PYTHONPATH} LAPIDARY_PEERS_PYTHON=$python

    local where rounds=20 g1=768,24576,32,8192 g2=4096,131072,64,8192 ceiling=8192
    if [ "$device" != cuda ]; then
        rounds=2 g1=64,512,8,128 g2=96,1024,16,256 ceiling=256
        export LAPIDARY_PEERS_DEVICE=cpu
    fi

    if [ "$device" = cuda ]; then
        # Not a step whose failing says anything: the program asks the driver itself.
        card=$(timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader 2>>"$results/log.txt" | head -1) || card=""
        find_cuda
    fi

    step devices 30 "$root/card" --exact devices --ignored --nocapture
    chosen=$(sed -n 's/^chosen //p' "$work/devices.out")
    benchmark G1 60 "$g1"
    benchmark G2 90 "$g2"
    if [ "$device" = cuda ]; then where=cuda; else where=cpu; fi
    if [ -n "$python" ] && timeout $((40 * slower)) "$python" -c "import torch; torch.ones(1, device='$where')" 2>>"$results/log.txt"; then
        step ceilings 40 "$python" "$root/scripts/card_ceilings.py" --device "$where" --size "$ceiling" "${g1%,*,*},${g1##*,}" "${g2%,*,*},${g2##*,}"
        export LAPIDARY_BENCH_PEERS=$root/scripts
        LAPIDARY_PEERS=${LAPIDARY_PEERS:-sparsify,pytorch} benchmark G1_beside_peers 80 "$g1"
        # A second dense coder of this size would leave little of a card's memory.
        LAPIDARY_PEERS=${LAPIDARY_PEERS:-sparsify} benchmark G2_beside_peers 110 "$g2"
        unset LAPIDARY_BENCH_PEERS
    else
        for name in ceilings G1_beside_peers G2_beside_peers; do
            skip "$name" "no Python with PyTorch for $where: ${python:-no python3}"
        done
    fi
    tests training 40 training_on_the_device
    # NVRTC takes ten seconds for each shape of the product that training uses, and two for this one.
    export LAPIDARY_CUDA_PRODUCT=simple-cmma
    for name in $(timeout 20 "$root/card" --list 2>>"$results/log.txt" | sed -n 's/^\([a-z_]*\)::.*: test$/\1/p' | sort -u); do
        if [ "$name" = encode_topk ]; then tests "$name" 90; else tests "$name" 40; fi
    done
    tests small_benchmark 20 a_benchmark
    unset LAPIDARY_CUDA_PRODUCT
    for name in "${products[@]}"; do
        if [ "$device" = cuda ]; then
            LAPIDARY_CUDA_PRODUCT=$name benchmark "product_$name" 40 "$g1"
        else
            skip "product_$name" "only for a card"
        fi
    done
    if [ "$device" != cuda ]; then
        skip sanitizer "only for a card"
    elif ! command -v compute-sanitizer >/dev/null; then
        skip sanitizer "compute-sanitizer not found"
    else
        step sanitizer 60 compute-sanitizer --error-exitcode 9 "$root/card" encode_topk::topk_ties --test-threads 1
    fi
    summary
    cat "$results/summary.json"
    $all_ok
}

# NVRTC and CUDA's headers: the program loads libnvrtc.so or libnvrtc.so.12 or .13 from where the loader looks, and gives NVRTC
# $CUDA_PATH/include, /usr/local/cuda/include or the like.
find_cuda() {
    local folders=() folder site nvcc
    nvcc=$(command -v nvcc || true)
    [ -z "$nvcc" ] || folders+=("$(dirname "$(dirname "$(readlink -f "$nvcc")")")")
    folders+=("${CUDA_PATH:-/usr/local/cuda}" "${CUDA_HOME:-/usr/local/cuda}" /usr/local/cuda /usr/local/cuda-* /opt/cuda)
    site=$(timeout 20 "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' 2>/dev/null || true)
    folders+=("$site"/nvidia/cu1? "$site"/nvidia/cuda_runtime "$site"/nvidia/cuda_nvrtc /usr)
    for folder in "${folders[@]}"; do
        if [ -z "$headers" ] && [ -e "$folder/include/cuda_fp16.h" ]; then headers=$folder/include; fi
        if [ -z "$nvrtc" ]; then
            nvrtc=$(find -L "$folder"/lib64 "$folder"/lib "$folder"/lib/x86_64-linux-gnu "$folder"/targets/x86_64-linux/lib -maxdepth 1 \
                -name 'libnvrtc.so*' 2>/dev/null | sort | head -1 || true)
        fi
    done
    [ -z "$headers" ] || export CUDA_PATH=${headers%/include}
    # Links to it alone: the rest of that folder must not stand before what PyTorch brings.
    if [ -n "$nvrtc" ]; then
        for folder in "$(dirname "$nvrtc")"/libnvrtc*.so*; do ln -sf "$folder" "$work/lib/"; done
        [ -e "$work/lib/libnvrtc.so" ] || ln -s "$nvrtc" "$work/lib/libnvrtc.so"
    fi
}

# step NAME SECONDS COMMAND…: runs it within its time and what is left of all; what it printed is $work/NAME.out.
step() {
    local name=$1 most=$(($2 * slower)) status=0 left begun word more
    shift 2
    left=$((limit - (SECONDS - started)))
    if [ "$left" -lt 3 ]; then
        all_ok=false
        skip "$name" "no time left"
        return
    fi
    [ "$most" -le "$left" ] || most=$left
    begun=$SECONDS
    timeout -k 3 "$most" "$@" >"$work/$name.out" 2>"$work/$name.err" </dev/null || status=$?
    case $status in
        0) word=ok ;;
        124 | 137) word="timed out after $most s" ;;
        *) word="failed: exit $status" ;;
    esac
    more=""
    ${judge:-:} "$name"
    [ "$word" = ok ] || all_ok=false
    add "$name" "$word" "$((SECONDS - begun))" "$more"
    {
        echo "=== $name: $word"
        tail -c 200000 "$work/$name.out"
        echo "--- standard error"
        tail -c 200000 "$work/$name.err"
    } >>"$results/log.txt"
}

# skip NAME REASON
skip() {
    add "$1" skipped 0 ", \"reason\": $(json "$2")"
}

# add NAME STATUS SECONDS MORE, which is JSON.
add() {
    echo "check_gpu: $1: $2, $3 s${4:-}" >&2
    steps+=("{\"step\": \"$1\", \"status\": $(json "$2"), \"seconds\": $3${4:-}}")
    summary
}

# tests NAME SECONDS [FILTER]: the program's tests of the module NAME, or those that FILTER matches.
tests() {
    judge=judge_tests step "$1" "$2" "$root/card" "${3:-$1::}" --test-threads 4
}

# Counts them. A step in which none ran has shown nothing.
judge_tests() {
    local passed failed
    passed=$(sed -n 's/^test .* \.\.\. ok$/x/p' "$work/$1.out" | wc -l)
    mapfile -t failed < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$work/$1.out")
    tests_passed=$((tests_passed + passed))
    tests_failed=$((tests_failed + ${#failed[@]}))
    failed_names+=("${failed[@]}")
    more=", \"passed\": $passed, \"failed\": ${#failed[@]}"
    [ "$word" != ok ] || [ "$passed" != 0 ] || word="failed: no test ran"
}

# benchmark NAME SECONDS SIZES
benchmark() {
    LAPIDARY_BENCH_SIZES=$3 LAPIDARY_BENCH_ROUNDS=$rounds LAPIDARY_BENCH_RESULT=$work/$1.json judge=judge_benchmark \
        step "$1" "$2" "$root/card" --exact benchmark --ignored --nocapture
}

judge_benchmark() {
    [ "$word" != ok ] || [ "$(json_file "$work/$1.json")" != null ] || word="failed: no figures"
}

# All that is known so far; whole at any time.
summary() {
    local name separator=""
    {
        echo "{"
        echo "\"device\": $(json "$device"), \"device_name\": $(json "$chosen"),"
        echo "\"card\": $(json "$card"), \"nvrtc\": $(json "$nvrtc"), \"cuda_headers\": $(json "$headers"),"
        echo "\"ok\": $all_ok, \"seconds\": $((SECONDS - started)),"
        echo "\"steps\": ["
        for name in "${steps[@]}"; do printf '%s%s' "$separator" "$name"; separator=$',\n'; done
        echo "],"
        separator=""
        printf '"kernel_tests": {"passed": %s, "failed": %s, "failed_names": [' "$tests_passed" "$tests_failed"
        for name in "${failed_names[@]}"; do printf '%s%s' "$separator" "$(json "$name")"; separator=", "; done
        echo "]},"
        for name in G1 G2 G1_beside_peers G2_beside_peers "${products[@]/#/product_}"; do echo "\"$name\": $(json_file "$work/$name.json"),"; done
        echo "\"ceilings\": $(json_file "$work/ceilings.out")"
        echo "}"
    } >"$results/summary.json.part"
    mv "$results/summary.json.part" "$results/summary.json"
}

case "${1:-}" in
    pack | run) "$@" ;;
    *) sed -n '2,19s/^# \{0,1\}//p' "$0"; [ $# = 0 ] || exit 2 ;;
esac
