#!/usr/bin/env bash
# Lets the cargo feature `cuda` build without a download: Debian's LLVM 22 stands in for the LLVM that the build would fetch.
#
#   scripts/llvm_for_cuda.sh [shared|static]      default: shared
#
# shared: the program needs libLLVM-22 where it runs. static: it carries LLVM and needs nothing.
# Needs a Debian or Ubuntu whose sources have llvm-22-dev, and root or sudo for apt-get.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
fail() { echo "llvm_for_cuda: $*" >&2; exit 1; }

link=${1:-shared}
case "$link" in
    shared | static) ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail "found $link, expected shared or static" ;;
esac

# The build looks for the version that Cargo.lock names.
version=$(sed -n '/^name = "tracel-llvm-bundler"$/{n;s/^version = "\(.*\)"$/\1/p;}' "$repository/Cargo.lock")
[ -n "$version" ] || fail "$repository/Cargo.lock: found no package tracel-llvm-bundler"

llvm=/usr/lib/llvm-22
if ! [ -x $llvm/bin/llvm-config ]; then
    command -v apt-get >/dev/null || fail "found no apt-get: install LLVM 22 with its headers at $llvm yourself"
    root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    "${root[@]}" apt-get install -y --no-install-recommends llvm-22-dev libzstd-dev zlib1g-dev libxml2-dev
fi

# What the build asks llvm-config for is what it links. The wrapper answers the questions about libraries itself, with the
# parts of LLVM that the build uses.
if [ "$link" = shared ]; then
    libraries='true'
    system='echo -lLLVM-22'
else
    parts="core orcjit executionengine mcjit x86 nvptx amdgpu bitreader bitwriter asmparser irreader linker passes ipo target \
object support instrumentation coroutines"
    libraries="exec $llvm/bin/llvm-config --link-static --libs $parts"
    system='echo -lrt -ldl -lm -lz -lzstd -lxml2'
fi

folder=${XDG_DATA_HOME:-$HOME/.local/share}/tracel/tracel-llvm-$version
if [ -e "$folder" ] && ! grep -qs llvm_for_cuda "$folder/bin/llvm-config"; then
    fail "$folder: found an LLVM that this script did not make; it is left as it is"
fi
mkdir -p "$folder/bin"
cat >"$folder/bin/llvm-config" <<WRAPPER
#!/bin/sh
# Made by scripts/llvm_for_cuda.sh $link
for question in "\$@"; do
    case "\$question" in
        --libs | --libnames) $libraries; exit ;;
        --system-libs) $system; exit ;;
    esac
done
exec $llvm/bin/llvm-config "\$@"
WRAPPER
chmod +x "$folder/bin/llvm-config"
touch "$folder/.tracel-llvm-installed" # with this file there, the build fetches nothing
echo "llvm_for_cuda: $folder ($link)"
