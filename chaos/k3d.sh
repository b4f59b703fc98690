#!/usr/bin/env bash
# A real Kubernetes cluster, made by k3d, with Coterie in it: pods are deleted without grace in
# mid-load, and the harness says what became of every acknowledged write.
#
#   chaos/k3d.sh                    make a cluster, run, take the cluster away again
#   chaos/k3d.sh --existing         use the cluster of KUBECONFIG (or kubectl's own), and leave it
#   chaos/k3d.sh --keep             leave the cluster and what runs in it
#   chaos/k3d.sh -- --seconds 300   whatever stands behind -- goes to `coterie-chaos run`
#
# The report is kept in chaos-k3d.html, the history in chaos-k3d.ndjson. The exit code is the harness's:
# 0 every promise was kept, 1 one was broken, 2 something could not be set up, 3 the run tells nothing.
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "$self")/.."

readonly CLUSTER=coterie-chaos
readonly NAMESPACE=coterie
readonly IMAGE=coterie:0.1.0
readonly OVERLAY=k8s/overlays/k3d
readonly SCENARIO=chaos/scenarios/kubernetes.toml

existing=false keep=false
while [ $# -gt 0 ]; do
    case $1 in
        --existing) existing=true ;;
        --keep) keep=true ;;
        --) shift; break ;;
        *) sed -n '2,12s/^# \{0,1\}//p' "$self"; exit 2 ;;
    esac
    shift
done

say() { printf '\n=== %s\n' "$*"; }

missing=0
need() { # program, how to get it
    command -v "$1" >/dev/null && return
    printf 'missing: %s. %s\n' "$1" "$2" >&2
    missing=1
}
need cargo "Rust: https://rustup.rs"
need kubectl "https://kubernetes.io/docs/tasks/tools, or your distribution's package kubernetes-client"
if ! $existing; then
    need docker "https://docs.docker.com/engine/install, or Debian's docker.io"
    need k3d "https://k3d.io/#installation"
fi
[ -d "$OVERLAY" ] || { echo "missing: $OVERLAY. Run this from a whole checkout." >&2; missing=1; }
[ "$missing" = 0 ] || exit 2
if $existing; then
    kubectl cluster-info >/dev/null || {
        echo "kubectl reaches no cluster: set KUBECONFIG, or leave out --existing" >&2
        exit 2
    }
else
    docker info >/dev/null 2>&1 || {
        echo "no docker engine answers: start it (systemctl start docker), and be in its group" >&2
        exit 2
    }
    # It may be in use: kept by an earlier run, or of one that goes on.
    if k3d cluster list "$CLUSTER" >/dev/null 2>&1; then
        cat >&2 <<-END
	there is a cluster $CLUSTER already. If nobody needs it: k3d cluster delete $CLUSTER
	To use it: KUBECONFIG=\$(k3d kubeconfig write $CLUSTER) chaos/k3d.sh --existing
	END
        exit 2
    fi
fi

# What was applied, without a namespace that was there before: more than Coterie may live in it.
# shellcheck disable=SC2317 # a trap calls what calls it
applied_here() {
    if $had_namespace; then
        kubectl kustomize "$OVERLAY" |
            awk 'BEGIN { RS = ORS = "---\n" } !/(^|\n)kind: Namespace\n/'
    else
        kubectl kustomize "$OVERLAY"
    fi
}

made=false applied=false had_namespace=false scratch=$(mktemp -d)
# shellcheck disable=SC2317 # a trap calls it
cleanup() {
    code=$?
    trap - EXIT INT TERM
    if [ "$code" != 0 ] && $applied; then
        say "what the pods say"
        kubectl --namespace "$NAMESPACE" get pods --output wide || true
        kubectl --namespace "$NAMESPACE" logs --tail=20 --prefix \
            --selector app.kubernetes.io/name=coterie || true
    fi
    if $keep && $made; then
        say "kept, until you type: k3d cluster delete $CLUSTER"
        # The one that this script used goes with its folder.
        echo "export KUBECONFIG=\$(k3d kubeconfig write $CLUSTER)"
        echo "kubectl --namespace $NAMESPACE get pods"
    elif $keep; then
        say "kept: kubectl --namespace $NAMESPACE get pods"
    elif $made; then
        say "taking the cluster away"
        k3d cluster delete "$CLUSTER" || true
    elif $applied; then
        say "taking away what was applied"
        applied_here | kubectl delete --ignore-not-found --wait=false -f - || true
    fi
    rm -rf "$scratch"
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "the harness"
cargo build --release --locked --package coterie-chaos

if ! $existing; then
    say "the image"
    docker build --tag "$IMAGE" .
    say "the cluster"
    made=true
    export KUBECONFIG=$scratch/kubeconfig
    k3d cluster create "$CLUSTER" --agents 2 --wait --timeout 180s \
        --kubeconfig-update-default=false --kubeconfig-switch-context=false
    k3d kubeconfig get "$CLUSTER" >"$KUBECONFIG"
    k3d image import --cluster "$CLUSTER" "$IMAGE"
fi

say "Coterie"
if $existing && kubectl --namespace "$NAMESPACE" get statefulset coterie >/dev/null 2>&1; then
    echo "it is there already, and stays"
else
    if kubectl get namespace "$NAMESPACE" >/dev/null 2>&1; then
        had_namespace=true
    fi
    applied=true
    kubectl apply -k "$OVERLAY"
fi
kubectl --namespace "$NAMESPACE" rollout status statefulset/coterie --timeout=180s

say "chaos"
status=0
target/release/coterie-chaos run "$SCENARIO" --namespace "$NAMESPACE" \
    --report chaos-k3d.html --history chaos-k3d.ndjson "$@" || status=$?
say "the report: $PWD/chaos-k3d.html"
exit "$status"
