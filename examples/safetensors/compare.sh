#!/bin/sh
# compare.sh FILE...: load.py plain and under rewarm, with the files in the page
# cache, or with COLD=1 without.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
rewarm=${REWARM:-$here/../../target/release/rewarm}
if [ $# = 0 ]; then
    echo "usage: compare.sh FILE.safetensors ..." >&2
    exit 2
fi

prepare() {
    if [ "${COLD:-0}" = 1 ]; then
        "$rewarm" prefetch --evict "$@" >/dev/null
    else
        "$rewarm" prefetch "$@" >/dev/null
    fi
}

prepare "$@"
echo "plain:"
python3 "$here/load.py" "$@"
prepare "$@"
echo "under rewarm:"
"$rewarm" run -- python3 "$here/load.py" "$@"
