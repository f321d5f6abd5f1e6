#!/usr/bin/env bash
# Plants one mistake after the other and fails when the tool that is to find it does not: planted.sh TOOLS BIN
#
# It needs the tools that `make lint-deploy` builds, so it runs there and not with the tests.
set -euo pipefail

tools="$1"
bin="$2"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
schemas="$root/deploy/schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json"

# $1: what is planted. The others: the command that has to find it.
must_fail() {
  local what="$1"
  shift
  if "$@" >"$folder/said" 2>&1; then
    printf 'planted: nobody found %s: %s\n' "$what" "$*" >&2
    exit 1
  fi
}

# The same file without a mistake has to pass, or a failure says nothing.
must_pass() {
  "$@" >"$folder/said" 2>&1 || {
    printf 'planted: without a mistake: %s\n' "$*" >&2
    cat "$folder/said" >&2
    exit 1
  }
}

# $1: sed's script. $2: the file. $3: its new name. The script has to change something.
plant() {
  sed "$1" "$2" >"$folder/$3"
  ! cmp --silent "$2" "$folder/$3" || {
    printf 'planted: %s changes nothing in %s\n' "$1" "$2" >&2
    exit 1
  }
}

application="$root/deploy/argocd/application-production.yaml"
cp "$application" "$folder/application.yaml"
must_pass "$tools/kubeconform" -strict -schema-location "$schemas" "$folder/application.yaml"
plant 's/targetRevision:/targetRevison:/' "$application" field.yaml
must_fail 'an unknown field' "$tools/kubeconform" -strict -schema-location "$schemas" "$folder/field.yaml"
plant 's/kind: Application/kind: Aplication/' "$application" kind.yaml
must_fail 'an unknown kind' "$tools/kubeconform" -strict -schema-location "$schemas" "$folder/kind.yaml"
plant 's/limit: 3/limit: three/' "$application" type.yaml
must_fail 'a text for a number' "$tools/kubeconform" -strict -schema-location "$schemas" "$folder/type.yaml"

workflow="$root/.github/workflows/ci.yml"
cp "$workflow" "$folder/ci.yml"
must_pass "$tools/actionlint" -shellcheck '' -pyflakes '' "$folder/ci.yml"
must_pass "$bin/zizmor" --offline --no-progress --quiet "$folder/ci.yml"
plant 's/timeout-minutes:/timeout-minute:/' "$workflow" key.yml
must_fail 'an unknown key of a job' "$tools/actionlint" -shellcheck '' -pyflakes '' "$folder/key.yml"
# shellcheck disable=SC2016 # GitHub's expression, not the shell's
plant 's/run: make lint$/run: echo "${{ github.head_ref }}"/' "$workflow" script.yml
must_fail 'a stranger'\''s text in a script' "$bin/zizmor" --offline --no-progress --quiet "$folder/script.yml"
plant 's/actions\/checkout@[0-9a-f]*/actions\/checkout@v7/' "$workflow" pin.yml
must_fail 'an action that is not pinned' "$bin/zizmor" --offline --no-progress --quiet "$folder/pin.yml"

# Where the build's paths lead somewhere, as in the checkout.
mkdir -p "$folder/deploy/docker"
cp "$root/deploy/docker/Dockerfile" "$folder/deploy/docker/"
compose="$root/deploy/docker/compose.yaml"
cp "$compose" "$folder/deploy/docker/compose.yaml"
must_pass "$tools/compose-check" "$folder/deploy/docker/compose.yaml"
plant 's/read_only:/readonly:/' "$compose" deploy/docker/key.yaml
must_fail 'an unknown key of a service' "$tools/compose-check" "$folder/deploy/docker/key.yaml"
plant 's/^  redis_password:.*//' "$compose" deploy/docker/secret.yaml
must_fail 'a secret that is not declared' "$tools/compose-check" "$folder/deploy/docker/secret.yaml"
plant 's/dockerfile: .*/dockerfile: Dockerfile.none/' "$compose" deploy/docker/build.yaml
must_fail 'a Dockerfile that is not there' "$tools/compose-check" "$folder/deploy/docker/build.yaml"
