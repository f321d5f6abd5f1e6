#!/usr/bin/env bash
# Waits until Argo CD shows a release as synced and healthy and every Deployment has rolled out; 600 s each.
#
#   wait.sh staging COMMIT
#
# It changes nothing. Exit code 1 with what the Application says when it does not come to that.
set -euo pipefail

readonly TIMEOUT=600s
environment="$1"
revision="$2"
application="application.argoproj.io/longwave-$environment"

say_why() {
  kubectl --namespace argocd get "$application" --output jsonpath='{.status.sync.status} {.status.health.status} {.status.operationState.message}{"\n"}' >&2 || true
}
trap say_why ERR

# Argo CD looks every three minutes; this makes it look now.
kubectl --namespace argocd annotate "$application" argocd.argoproj.io/refresh=normal --overwrite >/dev/null
kubectl --namespace argocd wait "$application" --timeout="$TIMEOUT" --for="jsonpath={.status.sync.revision}=$revision"
kubectl --namespace argocd wait "$application" --timeout="$TIMEOUT" --for='jsonpath={.status.sync.status}=Synced'
for role in ingest dispatch receipts admin; do
  kubectl --namespace "$environment" rollout status "deployment/longwave-$role" --timeout="$TIMEOUT"
done
kubectl --namespace argocd wait "$application" --timeout="$TIMEOUT" --for='jsonpath={.status.health.status}=Healthy'
