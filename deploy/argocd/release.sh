#!/usr/bin/env bash
# Releases an image to an environment, or takes the last release back, by a commit on the branch that Argo CD follows.
#
#   release.sh staging ghcr.io/your-org/longwave sha256:… [COMMIT]    manifests of COMMIT (HEAD) with that image
#   release.sh --back staging                                         what the branch held before its last commit
#
# A branch environments/NAME holds deploy/kustomize and deploy/argocd of the released commit and nothing else; its history is
# the list of releases. Only this script writes there, so that main and develop stay protected, a release starts no other,
# and image and manifests are always of one commit. Prints the new commit, which Argo CD will show as its revision.
set -euo pipefail

fail() {
  printf 'release: %s\n' "$1" >&2
  exit 1
}

back=false
if [[ "${1:-}" == --back ]]; then
  back=true
  shift
fi
environment="${1:-}"
[[ "$environment" =~ ^(development|staging|production)$ ]] || fail "name an environment: development, staging or production"
branch="environments/$environment"
file="deploy/argocd/releases/$environment/kustomization.yaml"

tree="$(mktemp -d)"
trap 'git worktree remove --force "$tree" 2>/dev/null || true; rm -rf "$tree"' EXIT
exists=false
if git fetch --quiet origin "refs/heads/$branch" 2>/dev/null; then
  exists=true
  git worktree add --quiet --detach "$tree" FETCH_HEAD
else
  git worktree add --quiet --detach "$tree" HEAD
fi
in_tree() {
  git -C "$tree" -c user.name=release -c user.email=release@users.noreply.github.com "$@"
}

if $back; then
  $exists || fail "$branch is not there: nothing was released"
  in_tree rev-parse --quiet --verify HEAD~1 >/dev/null || fail "$branch has one release: there is none to go back to"
  # No revert: of a release of the same once more there is nothing to revert, and git would fail.
  in_tree read-tree --reset -u HEAD~1
  in_tree commit --quiet --allow-empty --message "$environment: back" --message "Takes $(in_tree rev-parse HEAD) back."
else
  image="${2:-}"
  digest="${3:-}"
  commit="$(git rev-parse --verify "${4:-HEAD}^{commit}")"
  [[ "$image" =~ ^[a-z0-9./_-]+$ ]] || fail "name the image without its tag, such as ghcr.io/your-org/longwave"
  [[ "$digest" =~ ^sha256:[0-9a-f]{64}$ ]] || fail "give the image's digest, sha256:…: a tag may move"
  $exists || in_tree checkout --quiet --orphan "$branch"
  in_tree rm -r --quiet --force --ignore-unmatch . >/dev/null
  git archive "$commit" deploy/kustomize deploy/argocd | tar --extract --directory "$tree"
  cat >"$tree/$file" <<EOF
# Written by deploy/argocd/release.sh from commit $commit.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - ../../../kustomize/overlays/$environment
images:
  - name: ghcr.io/your-org/longwave
    newName: $image
    digest: $digest
EOF
  in_tree add --all
  in_tree commit --quiet --allow-empty --message "$environment: $image@$digest" --message "Manifests of $commit."
fi
in_tree push --quiet origin "HEAD:refs/heads/$branch"
in_tree rev-parse HEAD
