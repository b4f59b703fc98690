#!/usr/bin/env bash
# Runs the Python example against a cluster of its own.
#
#   run.sh [PATH OF coterie]        by default the newest of target/release and target/debug
#
# Exit codes: 0 it works, 1 it does not, 77 it cannot be tried here (no Python, no venv, no packages).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
port=${COTERIE_EXAMPLE_PORT:-17400}

cannot() { echo "the Python example cannot be tried here: $*" >&2; exit 77; }
fails() { echo "the Python example does not work: $*" >&2; exit 1; }

coterie=${1:-$(ls -t "$root"/target/{release,debug}/coterie 2>/dev/null | head -n 1 || true)}
[ -x "${coterie:-}" ] || fails "there is no coterie to run; cargo build, or give its path"

python=$(command -v python3) || cannot "there is no python3"
dir=$(mktemp -d)
cluster=
finish() {
    if [ -n "$cluster" ] && kill -0 "$cluster" 2>/dev/null; then
        kill -TERM "$cluster" 2>/dev/null || true
        wait "$cluster" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap finish EXIT

"$python" -m venv "$dir/venv" >"$dir/venv.log" 2>&1 \
    || cannot "python3 -m venv fails (on Debian and Ubuntu: apt install python3-venv): $(tail -n 1 "$dir/venv.log")"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check grpcio grpcio-tools >"$dir/pip.log" 2>&1 \
    || cannot "pip cannot install grpcio and grpcio-tools: $(tail -n 1 "$dir/pip.log")"

"$coterie" local --nodes 3 --port "$port" --data "$dir/data" >"$dir/cluster.log" 2>&1 &
cluster=$!
for _ in $(seq 600); do
    grep -q '^ready after' "$dir/cluster.log" && break
    kill -0 "$cluster" 2>/dev/null || fails "the cluster has ended: $(cat "$dir/cluster.log")"
    sleep 0.1
done
grep -q '^ready after' "$dir/cluster.log" || fails "the cluster is not ready: $(cat "$dir/cluster.log")"

addresses=()
for node in 0 1 2; do addresses+=("127.0.0.1:$((port + 10 * node))"); done
timeout 60 "$dir/venv/bin/python" "$here/example.py" "${addresses[@]}" || fails "it has ended with $?"
