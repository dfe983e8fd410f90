#!/bin/sh
# compare.sh [MODEL]: move.py plain and under rewarm.
set -eu
cd "$(dirname "$0")"

echo "plain:"
python3 move.py "$@"
echo "under rewarm:"
../../scripts/rewarm-python move.py "$@"
