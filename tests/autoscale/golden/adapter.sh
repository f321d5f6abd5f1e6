#!/bin/sh
# Writes adapter.json anew: what prometheus-adapter's own code makes of deploy/prometheus/adapter.yaml. Needs Go 1.25.
set -eu
adapter=0.12.0
here=$(cd "$(dirname "$0")" && pwd)
command -v go >/dev/null || { echo "autoscale-golden: go is missing: install Go 1.25 or newer (https://go.dev/dl)" >&2; exit 1; }
export GOTOOLCHAIN=local GOFLAGS=-mod=mod
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/adapter/main.go" "$work/"
printf 'module adapter\n\ngo 1.25\n\nrequire sigs.k8s.io/prometheus-adapter v%s\n' "$adapter" >"$work/go.mod"
cd "$work"
ADAPTER=$adapter go run . "$here/../../../deploy/prometheus/adapter.yaml" >"$work/adapter.json"
mv "$work/adapter.json" "$here/adapter.json"
echo "autoscale-golden: adapter.yaml is loaded by prometheus-adapter $adapter"
