#!/bin/sh
# serve.sh MODEL [OPTIONS]: vllm serve under rewarm, with a report of its copies.
set -eu
: "${1:?usage: serve.sh MODEL [OPTIONS of vllm serve]}"

exec rewarm run --prewarm --stats "${STATS:-vllm-copies.json}" -- vllm serve "$@"
