#!/bin/sh
# run.sh FOLDER [PORT [GiB]]: a server is asked, taken to disk, brought back and asked again.
set -eu
cd "$(dirname "$0")"
folder=${1:?usage: run.sh FOLDER [PORT [GiB]]}
port=${2:-8000}
mkdir -p "$folder"

# Until it answers, or has ended.
ask() {
    until python3 -c "import urllib.request as r; print(r.urlopen('http://127.0.0.1:$port').read().decode(), end='')" 2>/dev/null; do
        kill -0 "$server"
        sleep 0.1
    done
}

rewarm run --freezable -- python3 serve.py "$port" "${3:-4}" >"$folder/log" 2>&1 </dev/null &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
ask

rewarm checkpoint --pid "$server" --to "$folder/checkpoint" --replace
# It has ended, and its GPU is free. What takes note of that lets go of its pid.
wait "$server" || true

# Stays as long as the server, and passes signals on to it.
rewarm restore --from "$folder/checkpoint" &
server=$!
ask
