"""What Kubernetes' own API server would say of the objects: its code judges them (tests/deploy/admission), without one.

Beyond the schemas: what must agree within an object, what is deprecated, and the pod security level "restricted".
Custom resources have schemas alone: the rules and webhooks of their projects are not run.
"""

from collections.abc import Callable

import pytest
import yaml

from tests.deploy.rendering import (
    ENVIRONMENTS,
    RENDERINGS,
    Object,
    RefusedError,
    built,
    container,
    objects,
    one,
    pod,
    rendered,
    run,
)


def taken(text: str) -> int:
    """How many objects the server takes without a word; raises RefusedError with its words."""
    return int(run("admission", given=text).split()[-7])


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_the_server_takes_what_helm_renders(rendering: str) -> None:
    groups = {"apps", "autoscaling", "batch", "networking.k8s.io", "policy", "v1"}
    own = [entry for entry in objects(rendered(rendering)) if entry["apiVersion"].partition("/")[0] in groups]
    assert taken(rendered(rendering)) == len(own) > 15


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_server_takes_what_kustomize_builds(environment: str) -> None:
    assert taken(built(environment)) == taken(rendered(environment))


def more_than_there_is(entry: Object) -> None:
    container(entry)["resources"]["requests"]["memory"] = "1Gi"


def never_replaced(entry: Object) -> None:
    entry["spec"]["strategy"]["rollingUpdate"]["maxSurge"] = 0


def other_pods(entry: Object) -> None:
    entry["spec"]["selector"]["matchLabels"]["app"] = "another"


def longer_than_its_grace(entry: Object) -> None:
    container(entry)["lifecycle"]["preStop"]["sleep"]["seconds"] = 100


def two_probes_in_one(entry: Object) -> None:
    container(entry)["readinessProbe"]["grpc"] = {"port": 50051}


def nowhere(entry: Object) -> None:
    container(entry)["volumeMounts"][0]["name"] = "absent"


def as_root(entry: Object) -> None:
    container(entry)["securityContext"]["runAsNonRoot"] = False


def with_privileges(entry: Object) -> None:
    container(entry)["securityContext"]["capabilities"] = {"add": ["NET_ADMIN"]}


def on_the_machine(entry: Object) -> None:
    pod(entry)["hostNetwork"] = True


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (more_than_there_is, "must be less than or equal to memory limit"),
        (never_replaced, "may not be 0 when `maxSurge` is 0"),
        (other_pods, "`selector` does not match template `labels`"),
        (longer_than_its_grace, "less than terminationGracePeriodSeconds"),
        (two_probes_in_one, "may not specify more than 1 handler type"),
        (nowhere, "volumeMounts.*Not found"),
        (as_root, "not restricted: .*runAsNonRoot"),
        (with_privileges, "not restricted: .*capabilities"),
        (on_the_machine, "not restricted: .*host"),
    ],
)
def test_a_planted_error_is_refused(plant: Callable[[Object], None], said: str) -> None:
    entry = one(rendered("production"), "Deployment", "longwave-ingest")
    plant(entry)
    with pytest.raises(RefusedError, match=said):
        taken(yaml.safe_dump(entry))


def test_an_autoscaler_that_cannot_be_is_refused() -> None:
    entry = one(rendered("production"), "HorizontalPodAutoscaler", "longwave-ingest")
    entry["spec"]["maxReplicas"] = 2
    with pytest.raises(RefusedError, match="must be greater than or equal to `minReplicas`"):
        taken(yaml.safe_dump(entry))
