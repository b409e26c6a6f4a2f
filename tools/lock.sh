#!/bin/sh
# Re-make constraints.txt: resolve what every folder asks for, together, for Linux and Python 3.11.
set -eu
cd "$(dirname "$0")/.."
uv=.venvs/lock/bin/uv
[ -x "$uv" ] || { .venv/bin/python -m venv .venvs/lock && .venvs/lock/bin/python -m pip install -q uv; }

# uv does not read pip's configuration: hand over where pip looks for packages.
setting() { .venv/bin/python -m pip config list | sed -n "s/^\(global\|install\|:env:\)\.$1='\(.*\)'$/\2/p" | sort -u; }
set --
for place in $(setting find-links); do set -- "$@" --find-links "$place"; done
for place in $(setting extra-index-url); do set -- "$@" --index "$place"; done
for place in $(setting index-url); do set -- "$@" --default-index "$place"; done

made=$(mktemp)
trap 'rm -f "$made" "$made.log"' EXIT
resolve() {
    .venv/bin/python tools/requirements.py | "$uv" pip compile - tools/lock.in --override tools/lock-without.txt \
        --python-version 3.11 --no-header --no-annotate --index-strategy unsafe-best-match "$@" -o "$made" --quiet
}
# torch's CPU build comes from where pip looks, else from PyTorch's own index: the same order as in tools/install.py.
resolve "$@" 2> "$made.log" || resolve "$@" --extra-index-url https://download.pytorch.org/whl/cpu \
    || { cat "$made.log" >&2; exit 1; }
{
    sed -n '/^#/p' constraints.txt
    sed 's/^torch==\(.*\)+cpu$/torch==\1/; /^#/d' "$made"
} > constraints.new
mv constraints.new constraints.txt
