"""Releases by a branch: release.sh against a repository of its own, and the smoke Job against a kubectl of ours."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "ghcr.io/your-org/longwave"
FIRST, SECOND = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone with manifests and the script, and its origin."""
    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    git(tmp_path, "clone", "--quiet", "origin.git", "checkout")
    clone = tmp_path / "checkout"
    overlay = clone / "deploy/kustomize/overlays/staging"
    overlay.mkdir(parents=True)
    (overlay / "kustomization.yaml").write_text("resources: []\n", encoding="utf-8")
    shutil.copytree(ROOT / "deploy/argocd", clone / "deploy/argocd")
    (clone / "engine.py").write_text("not for the cluster\n", encoding="utf-8")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "first")
    git(clone, "push", "--quiet", "origin", "HEAD:main")
    return clone


def release(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["deploy/argocd/release.sh", *arguments], cwd=checkout, check=False, capture_output=True, text=True
    )


def held(checkout: Path, name: str = "deploy/argocd/releases/staging/kustomization.yaml") -> str:
    git(checkout, "fetch", "--quiet", "origin", "environments/staging")
    return git(checkout, "show", f"FETCH_HEAD:{name}")


def test_the_branch_holds_manifests_and_the_image_and_nothing_else(checkout: Path) -> None:
    done = release(checkout, "staging", IMAGE, FIRST)
    assert done.returncode == 0, done.stderr
    assert f"digest: {FIRST}" in held(checkout)
    assert "../../../kustomize/overlays/staging" in held(checkout)
    assert done.stdout.strip() == git(checkout, "rev-parse", "FETCH_HEAD")
    top = git(checkout, "ls-tree", "--name-only", "FETCH_HEAD").split()
    assert top == ["deploy"]
    assert git(checkout, "status", "--porcelain") == ""
    assert git(checkout, "rev-parse", "--abbrev-ref", "HEAD") == "main"


def test_a_release_follows_the_one_before_with_its_own_manifests(checkout: Path) -> None:
    release(checkout, "staging", IMAGE, FIRST)
    (checkout / "deploy/kustomize/overlays/staging/more.yaml").write_text("a: 1\n", encoding="utf-8")
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "second")
    done = release(checkout, "staging", IMAGE, SECOND)
    assert done.returncode == 0, done.stderr
    assert f"digest: {SECOND}" in held(checkout)
    assert held(checkout, "deploy/kustomize/overlays/staging/more.yaml") == "a: 1"
    assert git(checkout, "rev-list", "--count", "FETCH_HEAD") == "2"


def test_a_release_is_taken_back_by_a_commit(checkout: Path) -> None:
    release(checkout, "staging", IMAGE, FIRST)
    release(checkout, "staging", IMAGE, SECOND)
    done = release(checkout, "--back", "staging")
    assert done.returncode == 0, done.stderr
    assert f"digest: {FIRST}" in held(checkout)
    assert git(checkout, "rev-list", "--count", "FETCH_HEAD") == "3"


def test_a_release_of_the_same_once_more_is_taken_back_too(checkout: Path) -> None:
    """A run that is repeated makes a commit that changes nothing, and its smoke test may fail."""
    for _ in range(2):
        assert release(checkout, "staging", IMAGE, FIRST).returncode == 0
    done = release(checkout, "--back", "staging")
    assert done.returncode == 0, done.stderr
    assert f"digest: {FIRST}" in held(checkout)
    assert done.stdout.strip() == git(checkout, "rev-parse", "FETCH_HEAD")


def test_the_first_release_cannot_be_taken_back(checkout: Path) -> None:
    assert "nothing was released" in release(checkout, "--back", "staging").stderr
    release(checkout, "staging", IMAGE, FIRST)
    done = release(checkout, "--back", "staging")
    assert done.returncode == 1
    assert "none to go back to" in done.stderr
    assert f"digest: {FIRST}" in held(checkout)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("elsewhere", IMAGE, FIRST),
        ("staging", f"{IMAGE}:latest", FIRST),
        ("staging", IMAGE, "latest"),
        ("staging", IMAGE, FIRST, "no-such-commit"),
    ],
)
def test_what_is_no_release_is_refused(arguments: tuple[str, ...], checkout: Path) -> None:
    assert release(checkout, *arguments).returncode != 0
    assert git(checkout, "ls-remote", "origin", "environments/*") == ""


KUBECTL = """#!/usr/bin/env bash
case "$*" in
  *create*) cat >"$SEEN"; printf longwave-smoke-x ;;
  *jsonpath*) printf '%s' "$ENDED" ;;
  *logs*) echo "ok link" ;;
esac
"""


@pytest.mark.parametrize(("ended", "code"), [("1/", 0), ("/1", 1)])
def test_the_smoke_job_runs_what_was_deployed(tmp_path: Path, ended: str, code: int) -> None:
    (tmp_path / "kubectl").write_text(KUBECTL, encoding="ascii")
    (tmp_path / "kubectl").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SEEN": str(tmp_path / "seen"), "ENDED": ended}
    command = [str(ROOT / "deploy/smoke/run.sh"), "--mesh", "staging", f"{IMAGE}@{FIRST}"]
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith("ok link")
    job = (tmp_path / "seen").read_text(encoding="utf-8")
    assert f"image: {IMAGE}@{FIRST}" in job
    assert "- --insecure" in job
    assert "longwave-ingest.staging.svc:50051" in job
    assert "name: longwave-smoke-staging, key: api-key" in job
    assert "production" not in job
