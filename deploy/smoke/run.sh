#!/usr/bin/env bash
# Runs `longwave smoke` in the cluster, from the image that was deployed, and shows what it found.
#
#   run.sh production ghcr.io/your-org/longwave@sha256:…          by TLS that the engine ends
#   run.sh --mesh staging ghcr.io/your-org/longwave@sha256:…      in the clear to the sidecar, which does TLS
#
# It needs the namespace of callers (CALLERS, messaging by default) with the Secret longwave-smoke-ENVIRONMENT
# (docs/operations/DEPLOY.md). Exit code 0 when every check passed.
set -euo pipefail

readonly TIMEOUT_S=300
callers="${CALLERS:-messaging}"
link=--ca-file=/etc/longwave-smoke/ca.crt
if [[ "${1:-}" == --mesh ]]; then
  link=--insecure
  shift
fi
environment="${1:-}"
image="${2:-}"
[[ "$environment" =~ ^(development|staging|production)$ ]] || {
  printf 'smoke: name an environment: development, staging or production\n' >&2
  exit 2
}
[[ "$image" =~ ^[a-z0-9./_-]+@sha256:[0-9a-f]{64}$ ]] || {
  printf 'smoke: give the image by digest: NAME@sha256:…\n' >&2
  exit 2
}

job="$(sed --expression "s|ghcr.io/your-org/longwave:0.1.0|$image|" --expression "s|--ca-file=.*|$link|" \
  --expression "s|longwave-ingest.production|longwave-ingest.$environment|" \
  --expression "s|longwave-smoke-production|longwave-smoke-$environment|" "$(dirname "${BASH_SOURCE[0]}")/job.yaml" |
  kubectl --namespace "$callers" create --filename - --output jsonpath='{.metadata.name}')"
ended=/
for ((waited = 0; waited < TIMEOUT_S; waited += 5)); do
  ended="$(kubectl --namespace "$callers" get "job/$job" --output jsonpath='{.status.succeeded}/{.status.failed}')"
  [[ "$ended" == / ]] || break
  sleep 5
done
kubectl --namespace "$callers" logs "job/$job" --container smoke || true
[[ "$ended" == 1/* ]] || {
  printf 'smoke: %s did not pass\n' "$job" >&2
  exit 1
}
