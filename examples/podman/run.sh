#!/bin/sh
# run.sh IMAGE [ARGUMENTS]: a container with rewarm in it.
set -eu
: "${1:?usage: run.sh IMAGE [ARGUMENTS]}"
rewarm=${REWARM_FOLDER:-/opt/rewarm}
if [ ! -e "$rewarm/librewarm.so" ] || [ ! -e "$rewarm/librewarm_core.so" ]; then
    echo "run.sh: no librewarm.so and librewarm_core.so in $rewarm: copy them there, or set REWARM_FOLDER" >&2
    exit 1
fi

exec podman run --rm --device nvidia.com/gpu=all \
    -v "$rewarm:/opt/rewarm:ro" \
    --env LD_PRELOAD=/opt/rewarm/librewarm.so \
    --env CRIU_CUDA_STREAMS="${CRIU_CUDA_STREAMS:-8}" \
    --env CRIU_CUDA_CHUNK_MB="${CRIU_CUDA_CHUNK_MB:-4}" \
    "$@"
