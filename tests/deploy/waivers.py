"""What kube-score and checkov would have otherwise, each with the reason why it stays.

A finding that is not here fails the run, and so does a line here that no tool finds any more.
"""

from typing import Final

WORKLOADS: Final = (
    "Deployment longwave-ingest",
    "Deployment longwave-dispatch",
    "Deployment longwave-receipts",
    "Deployment longwave-admin",
    "Job longwave-migrate",
)
DEPLOYMENTS: Final = WORKLOADS[:4]

# The operations guide asks for uid and gid 1001; a machine's own users end at 1000 on the images that EKS has.
LOW_USER: Final = {("container-security-context-user-group-id", name) for name in WORKLOADS}
# Topology spread constraints over zones and machines do what an anti-affinity would, and say how uneven it may get.
SPREAD: Final = {("deployment-has-host-podantiaffinity", name) for name in DEPLOYMENTS}
# One pod a role is what development is for.
ONE_POD: Final = {("deployment-replicas", name) for name in DEPLOYMENTS}

KUBE_SCORE: Final[dict[str, set[tuple[str, str]]]] = {
    "development": LOW_USER | ONE_POD,
    "staging": LOW_USER | SPREAD,
    "production": LOW_USER | SPREAD,
}

CHECKOV: Final[set[tuple[str, str]]] = {
    # As above: the guide's uid.
    *(("CKV_K8S_40", name) for name in WORKLOADS),
    # A digest is known when an image has been pushed: the pipeline that does so sets image.digest or the overlay's.
    *(("CKV_K8S_43", name) for name in WORKLOADS),
    # The carrier's key has no setting that names a file; it goes to this role alone.
    ("CKV_K8S_35", "Deployment longwave-dispatch"),
}
