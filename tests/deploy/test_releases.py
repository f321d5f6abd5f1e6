"""What Argo CD applies: an environment's overlay, with the image of its release in every pod."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.deploy.rendering import ENVIRONMENTS, ROOT, built, container, objects, run, workloads

DIGEST = "sha256:" + "7" * 64


def test_a_release_is_its_overlay_until_one_is_made() -> None:
    for environment in ENVIRONMENTS:
        released = run("kustomize", "build", str(ROOT / "deploy" / "argocd" / "releases" / environment))
        assert objects(released) == objects(built(environment))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_image_of_a_release_is_that_of_every_pod(tmp_path: Path, environment: str) -> None:
    deploy = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy" / "kustomize", deploy / "kustomize")
    shutil.copytree(ROOT / "deploy" / "argocd" / "releases", deploy / "argocd" / "releases")
    file = deploy / "argocd" / "releases" / environment / "kustomization.yaml"
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    [image] = written["images"]
    del image["newTag"]
    image["digest"] = DIGEST
    file.write_text(yaml.safe_dump(written), encoding="utf-8")
    released = run("kustomize", "build", str(file.parent))
    images = [container(entry)["image"] for entry in workloads(released)]
    assert len(images) > 1
    assert set(images) == {f"{image['name']}@{DIGEST}"}
