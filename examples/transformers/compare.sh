#!/bin/sh
# compare.sh [MODEL]: move.py and load.py plain and under rewarm.
set -eu
cd "$(dirname "$0")"

for script in move.py load.py; do
    echo "$script, plain:"
    python3 "$script" "$@"
    echo "$script, under rewarm:"
    ../../scripts/rewarm-python "$script" "$@"
done
