#!/usr/bin/env bash
# Prefect's server, the `mlim` process pool, the GPU limit, the deployments and one worker, all on loopback.
# Then, in another terminal: prefect deployment run 'pipeline/local' --watch --param recipe=demo
set -euo pipefail

port=${PORT:-4277}
export MLIM_ROOT=${MLIM_ROOT:-$PWD}
export PREFECT_API_URL="http://127.0.0.1:$port/api"
export PREFECT_SERVER_ANALYTICS_ENABLED=false
export DO_NOT_TRACK=1
# concurrency slots survive a restart of the server
export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem
cd "$MLIM_ROOT"

prefect server start --host 127.0.0.1 --port "$port" >"${PREFECT_SERVER_LOG:-/dev/null}" 2>&1 &
server=$!
worker=
# the worker first: it says goodbye to the server, and hangs when there is none
stop() {
    trap - EXIT INT TERM
    if [ -n "$worker" ]; then
        kill "$worker" 2>/dev/null || true
        for _ in $(seq 20); do kill -0 "$worker" 2>/dev/null || break; sleep 0.5; done
        kill -9 "$worker" 2>/dev/null || true
    fi
    kill "$server" 2>/dev/null || true
    wait || true
}
trap stop EXIT
trap 'exit 0' INT TERM
for _ in $(seq 120); do
    python -c "import urllib.request as u; u.urlopen('$PREFECT_API_URL/health', timeout=2)" 2>/dev/null && break
    kill -0 "$server" 2>/dev/null || { echo "the Prefect server did not start; run: prefect server start" >&2; exit 1; }
    sleep 0.5
done

prefect work-pool inspect mlim >/dev/null 2>&1 || prefect work-pool create mlim --type process
prefect gcl inspect gpu >/dev/null 2>&1 || prefect gcl create gpu --limit 1
prefect --no-prompt deploy --all
echo "Prefect is ready on $PREFECT_API_URL; in another terminal:"
echo "  export PREFECT_API_URL=$PREFECT_API_URL"
echo "  prefect deployment run 'pipeline/local' --watch --param recipe=demo"
prefect worker start --pool mlim &
worker=$!
wait "$worker"
