#!/bin/sh
# Writes the golden decisions anew: the controller's own sources, out of Go's module cache, with our test beside them.
# Needs Go 1.25 or newer; the first run fetches and builds Kubernetes' packages (some minutes).
set -eu
kubernetes=1.34.4
here=$(cd "$(dirname "$0")" && pwd)
command -v go >/dev/null || { echo "autoscale-golden: go is missing: install Go 1.25 or newer (https://go.dev/dl)" >&2; exit 1; }
export GOTOOLCHAIN=local GOFLAGS=-mod=mod
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
source=$(cd "$work" && go mod download -json "k8s.io/kubernetes@v$kubernetes" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
mkdir "$work/podautoscaler"
for file in doc horizontal rate_limiters replica_calculator; do
  cp "$source/pkg/controller/podautoscaler/$file.go" "$work/podautoscaler/"
done
cp "$here/go/golden_test.go" "$work/podautoscaler/"
{
  printf 'module golden\n\ngo 1.25\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$kubernetes"
  # Its parts are published beside it, a major version lower.
  sed -n "s#^\t*\(replace \)\{0,1\}\(k8s.io/[a-z-]*\) => ./staging/.*#\t\2 => \2 v0.${kubernetes#1.}#p" "$source/go.mod"
  printf ')\n'
} >"$work/go.mod"
cd "$work"
KUBERNETES=$kubernetes GOLDEN="$here/decisions.jsonl.gz" HPAS="$here/hpas" go test -count=1 ./podautoscaler
echo "autoscale-golden: $(gzip -dc "$here/decisions.jsonl.gz" | wc -l) scenarios of Kubernetes $kubernetes"
