#!/usr/bin/env bash
# Makes the Python environment that the oracle scripts run in: torch, sae-lens, transformers, polars, duckdb.
#
#   scripts/setup_python.sh [--peers] [FOLDER]      default: $LAPIDARY_VENV, else target/oracle-venv
#
# With --peers also sparsify and dictionary_learning, for scripts/bench_peers.py. Every file that is installed must have one
# of the hashes in requirements*.txt.
# Does nothing when FOLDER already holds these very pins. Needs Python 3.11 or later ($PYTHON, else python3), with venv,
# and cc. About 700 MB of downloads, 2.2 GB on disk.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
requirements=(-r "$here/requirements.txt")
if [ "${1:-}" = --peers ]; then
    requirements+=(-r "$here/requirements-peers.txt")
    shift
fi
folder=${1:-${LAPIDARY_VENV:-$here/../target/oracle-venv}}
python=${PYTHON:-python3}
options=(--quiet --no-deps --require-hashes)

case "$folder" in -h | --help)
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup_python: found $("$python" --version 2>&1), expected Python 3.11 or later (set PYTHON)" >&2
    exit 1
}

pins=$({ "$python" --version && echo "${requirements[@]##*/}" && cat "$here"/requirements*.txt "$here/stub_cuda.py" "$here/setup_python.sh"; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$folder/pins.sha256" 2>/dev/null)" = "$pins" ]; then
    echo "setup_python: $folder is up to date"
    exit 0
fi

rm -rf "$folder"
"$python" -m venv "$folder"
folder=$(cd "$folder" && pwd) # commands below run elsewhere
if "$folder/bin/python" -m pip install "${options[@]}" -r "$here/requirements-uv.txt" &&
    "$folder/bin/uv" pip install --python "$folder/bin/python" "${options[@]}" "${requirements[@]}"; then :; else
    "$folder/bin/python" -m pip install "${options[@]}" "${requirements[@]}"
fi
if [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ]; then
    "$folder/bin/python" "$here/stub_cuda.py"
fi
(cd / && "$folder/bin/python" -c 'import duckdb, pandas, polars, torch; torch.ones(2, 2) @ torch.ones(2, 2)')
echo "$pins" >"$folder/pins.sha256"
echo "setup_python: made $folder"
