#!/usr/bin/env bash
# Makes a small stand-in for libLLVM, with which a program built with the cargo feature `cuda` and shared LLVM starts where
# there is no LLVM. Kernels go through NVRTC and never call LLVM; whoever calls a function of the stand-in is told so and ended.
#
#   scripts/llvm_stand_in.sh PROGRAM [PROGRAM…] FOLDER      then: LD_LIBRARY_PATH=FOLDER ./PROGRAM
#
# Needs cc, nm and readelf.
set -euo pipefail
fail() { echo "llvm_stand_in: $*" >&2; exit 1; }
case "${1:-}" in "" | -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
[ $# -ge 2 ] || fail "found one argument, expected programs and a folder"
folder=${*: -1}
programs=("${@:1:$#-1}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for program in "${programs[@]}"; do
    [ -r "$program" ] || fail "$program: not found"
    nm -D --undefined-only "$program"
done | awk '$NF ~ /@LLVM_/ { print $NF }' | sort -u >"$work/symbols"
[ -s "$work/symbols" ] || { echo "llvm_stand_in: these programs need no LLVM"; exit 0; }
version=$(sed 's/.*@//' "$work/symbols" | sort -u)
[ "$(wc -l <<<"$version")" = 1 ] || fail "found symbols of several versions: ${version//$'\n'/, }"
soname=$(readelf -d "${programs[0]}" | sed -n 's/.*NEEDED.*\[\(libLLVM[^]]*\)\]/\1/p')
[ -n "$soname" ] || fail "${programs[0]}: found no libLLVM among what it needs"

{
    echo '#include <stdlib.h>'
    echo '#include <unistd.h>'
    echo 'static void refuse(const char *name, unsigned long length) {'
    echo '    write(2, name, length); write(2, ": called, but this is a stand-in for LLVM\n", 42); abort();'
    echo '}'
    sed 's/@.*//; s/.*/void &(void) { refuse("&", sizeof "&" - 1); }/' "$work/symbols"
} >"$work/stand_in.c"
printf '%s { global: *; };\n' "$version" >"$work/version.map"
mkdir -p "$folder"
cc -shared -fPIC -O1 -w -Wl,-soname,"$soname" -Wl,--version-script="$work/version.map" -s -o "$folder/$soname" "$work/stand_in.c"
echo "llvm_stand_in: $folder/$soname, $(wc -l <"$work/symbols") functions, $(stat -c %s "$folder/$soname") bytes"
