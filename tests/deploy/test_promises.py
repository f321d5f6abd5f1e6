"""What the operations guide and the issue ask of the objects: probes, rollout, scaling, and who may speak to whom."""

from typing import Any

import pytest

from tests.deploy.network import End, allows
from tests.deploy.rendering import (
    ENVIRONMENTS,
    RENDERINGS,
    ROLES,
    Object,
    container,
    of_kind,
    one,
    pod,
    rendered,
    workloads,
)

MESH = ("staging", "production")


def deployments(rendering: str) -> list[Object]:
    found = of_kind(rendered(rendering), "Deployment")
    assert {entry["metadata"]["name"] for entry in found} == {f"longwave-{role}" for role in ROLES}
    return found


def labels_of(entry: Object) -> dict[str, str]:
    labels: dict[str, str] = entry["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_rollouts_never_take_a_pod_before_another_is_there(rendering: str) -> None:
    for entry in deployments(rendering):
        assert entry["spec"]["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        }
        assert entry["spec"]["progressDeadlineSeconds"] == 600


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_probes_have_the_guides_timings(rendering: str) -> None:
    for entry in deployments(rendering):
        live, ready = container(entry)["livenessProbe"], container(entry)["readinessProbe"]
        timing = {"initialDelaySeconds": 30, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3}
        assert live == {"httpGet": {"path": "/health", "port": "ops"}, **timing}
        asked = ready.get("grpc") or ready.get("httpGet")
        assert asked in ({"port": 50051}, {"path": "/ready", "port": "ops"})
        del ready["grpc" if "grpc" in ready else "httpGet"]
        assert ready == {"initialDelaySeconds": 5, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 3}


def test_grpc_is_probed_by_grpc_where_it_is_in_the_clear() -> None:
    for environment, roles in (
        ("development", {"ingest", "admin"}),
        ("staging", {"ingest", "admin"}),
        ("production", set()),
    ):
        asked = {
            entry["metadata"]["name"].removeprefix("longwave-")
            for entry in deployments(environment)
            if "grpc" in container(entry)["readinessProbe"]
        }
        assert asked == roles


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_pods_are_confined(rendering: str) -> None:
    for entry in workloads(rendered(rendering)):
        assert pod(entry)["automountServiceAccountToken"] is False
        assert pod(entry)["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 1001,
            "runAsGroup": 1001,
            "fsGroup": 1001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        confined = container(entry)["securityContext"]
        assert confined["readOnlyRootFilesystem"] is True
        assert confined["allowPrivilegeEscalation"] is False
        assert confined["capabilities"] == {"drop": ["ALL"]}
        written = [mount["mountPath"] for mount in container(entry)["volumeMounts"] if not mount.get("readOnly")]
        assert written == ["/tmp"]  # noqa: S108 - the path in the container


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_accounts_have_no_token_and_each_pod_has_its_own(rendering: str) -> None:
    accounts = {entry["metadata"]["name"]: entry for entry in of_kind(rendered(rendering), "ServiceAccount")}
    assert all(entry["automountServiceAccountToken"] is False for entry in accounts.values())
    assert sorted(pod(entry)["serviceAccountName"] for entry in workloads(rendered(rendering))) == sorted(accounts)


def test_resources_are_the_guides() -> None:
    for entry in deployments("production"):
        given = container(entry)["resources"]
        assert {key: given["requests"][key] for key in ("memory", "cpu")} == {"memory": "256Mi", "cpu": "250m"}
        assert {key: given["limits"][key] for key in ("memory", "cpu")} == {"memory": "512Mi", "cpu": "500m"}


def test_memory_of_what_waits_stays_within_the_autoscalers_tolerance() -> None:
    """By the arithmetic of docs/CAPACITY.md: else a paced backlog would hold the pods at their maximum."""
    settings = one(rendered("production"), "ConfigMap", "longwave-settings")["data"]
    used_mib = 180 + int(settings["LONGWAVE_HELD_MESSAGES_MAX"]) * 350 / 2**20
    assert used_mib / 256 / 0.80 < 1.1
    assert used_mib < 0.8 * 512


@pytest.mark.parametrize("environment", MESH)
@pytest.mark.parametrize("role", ROLES)
def test_hpas_are_the_guides(environment: str, role: str) -> None:
    scaled = one(rendered(environment), "HorizontalPodAutoscaler", f"longwave-{role}")["spec"]
    assert scaled["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"longwave-{role}"}
    assert (scaled["minReplicas"], scaled["maxReplicas"]) == (3, 20)
    metrics: list[Any] = [
        {
            "type": "Resource",
            "resource": {"name": name, "target": {"type": "Utilization", "averageUtilization": percent}},
        }
        for name, percent in (("cpu", 70), ("memory", 80))
    ]
    if role in {"ingest", "dispatch"}:
        target = {"type": "AverageValue", "averageValue": "10"}
        metrics.append({"type": "Pods", "pods": {"metric": {"name": "custom_queue_length"}, "target": target}})
    assert scaled["metrics"] == metrics
    assert scaled["behavior"] == {
        "scaleUp": {
            "stabilizationWindowSeconds": 300,
            "policies": [
                {"type": "Percent", "value": 100, "periodSeconds": 15},
                {"type": "Pods", "value": 4, "periodSeconds": 15},
            ],
            "selectPolicy": "Max",
        },
        "scaleDown": {
            "stabilizationWindowSeconds": 300,
            "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}],
        },
    }


def test_keda_scales_by_the_same_figures() -> None:
    for role in ROLES:
        horizontal = one(rendered("production"), "HorizontalPodAutoscaler", f"longwave-{role}")["spec"]
        scaled = one(rendered("keda"), "ScaledObject", f"longwave-{role}")["spec"]
        assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (3, 20)
        assert scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == horizontal["behavior"]
        triggers = [trigger["metadata"] for trigger in scaled["triggers"]]
        values = [trigger.get("value") or trigger["threshold"] for trigger in triggers]
        assert values == ["70", "80", "10"][: len(horizontal["metrics"])]
        for trigger in triggers[2:]:
            assert trigger["ignoreNullValues"] == "false", "a Prometheus that is away would take pods down"
            assert f'namespace="production",pod=~"longwave-{role}-.*"' in trigger["query"]


def test_a_vertical_autoscaler_has_the_guides_bounds() -> None:
    for role in ROLES:
        (rule,) = one(rendered("vertical"), "VerticalPodAutoscaler", f"longwave-{role}")["spec"]["resourcePolicy"][
            "containerPolicies"
        ]
        assert rule["minAllowed"] == {"cpu": "100m", "memory": "128Mi"}
        assert rule["maxAllowed"] == {"cpu": "1000m", "memory": "1Gi"}


def test_the_balancer_has_the_guides_annotations() -> None:
    balancer = one(rendered("production"), "Service", "longwave-nlb")
    prefix = "service.beta.kubernetes.io/aws-load-balancer-"
    assert {key.removeprefix(prefix): value for key, value in balancer["metadata"]["annotations"].items()} == {
        "type": "nlb",
        "internal": "true",
        "cross-zone-load-balancing-enabled": "true",
        "backend-protocol": "tcp",
        "healthcheck-interval": "10",
        "healthcheck-timeout": "6",
        "healthy-threshold": "2",
        "unhealthy-threshold": "2",
    }
    assert balancer["spec"]["ports"][0]["port"] == 443


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_services_lead_to_pods_that_have_the_port(rendering: str) -> None:
    for service in of_kind(rendered(rendering), "Service"):
        chosen = service["spec"]["selector"].items()
        led = [entry for entry in deployments(rendering) if chosen <= labels_of(entry).items()]
        assert led, service["metadata"]["name"]
        for entry in led:
            names = {port["name"] for port in container(entry)["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


def test_clients_see_every_pod_of_grpc() -> None:
    for role in ("ingest", "admin"):
        assert one(rendered("production"), "Service", f"longwave-{role}")["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_selectors_of_pods_choose_the_pods_of_one_role(rendering: str) -> None:
    """Of Deployments, budgets and spread alike: what is chosen too widely evicts or counts another role's pods."""
    for entry in deployments(rendering):
        selector = entry["spec"]["selector"]["matchLabels"]
        budget = one(rendered(rendering), "PodDisruptionBudget", entry["metadata"]["name"])
        assert budget["spec"]["selector"]["matchLabels"] == selector
        spread = pod(entry)["topologySpreadConstraints"]
        assert {rule["topologyKey"] for rule in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        assert all(rule["labelSelector"]["matchLabels"] == selector for rule in spread)
        chosen = [
            other["metadata"]["name"]
            for other in workloads(rendered(rendering))
            if selector.items() <= other["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert chosen == [entry["metadata"]["name"]]


def ends(environment: str) -> dict[str, End]:
    """Every pod of ours, and who is around."""
    found = {}
    for entry in workloads(rendered(environment)):
        name = entry["metadata"]["name"].removeprefix("longwave-")
        ports = {port["name"]: port["containerPort"] for port in container(entry).get("ports", [])}
        found[name] = End(labels_of(entry), environment, ports=ports)
    return found | {
        "caller": End({}, "shop", {"longwave.example.com/caller": "true"}),
        "stranger": End({}, "shop-of-another"),
        "prometheus": End({}, "monitoring"),
        "nginx": End({}, "ingress-nginx"),
        "istiod": End({"app": "istiod"}, "istio-system"),
        "names": End({"k8s-app": "kube-dns"}, "kube-system"),
        "private": End(address="10.1.2.3"),
        "internet": End(address="192.0.2.7"),
        "metadata": End(address="169.254.169.254"),
    }


PORTS = (53, 443, 3306, 6379, 8080, 8081, 15012, 50051)
OURS = (*ROLES, "migrate")
EVERYBODY: dict[tuple[str, str], set[int]] = {
    **{(name, "names"): {53} for name in OURS},
    **{(name, "private"): {3306, 6379} for name in ROLES},
    ("migrate", "private"): {3306},
    ("dispatch", "internet"): {443},
    ("caller", "ingest"): {50051},
    ("caller", "admin"): {50051},
    ("nginx", "receipts"): {8081},
    **{("prometheus", role): {8080} for role in ROLES},
    **{(role, "istiod"): {15012} for role in ROLES},
}


@pytest.mark.parametrize("environment", MESH)
def test_who_may_speak_to_whom(environment: str) -> None:
    """All pairs and ports: what is not listed is refused, between our own pods, too."""
    policies, around = of_kind(rendered(environment), "NetworkPolicy"), ends(environment)
    expected = dict(EVERYBODY)
    if environment == "production":
        expected["private", "ingest"] = {50051}  # the balancer's callers
    found = {
        (source, target): ports
        for source in around
        for target in around
        if source != target and (source in OURS or target in OURS)
        if (ports := {port for port in PORTS if allows(policies, around[source], around[target], port)})
    }
    assert found == expected


def test_what_is_added_to_egress_is_for_every_pod() -> None:
    """A backup command of the migration has somewhere to call, too."""
    policies = of_kind(rendered("placed"), "NetworkPolicy")
    pods = [End(labels_of(entry), "staging") for entry in workloads(rendered("placed"))]
    assert len(pods) == len(OURS)
    assert all(allows(policies, pod, End(address="10.1.2.3"), 4317) for pod in pods)


def test_a_policy_that_is_gone_shows() -> None:
    around = ends("production")
    policies = [
        policy
        for policy in of_kind(rendered("production"), "NetworkPolicy")
        if policy["metadata"]["name"] != "longwave-default-deny"
    ]
    assert allows(policies, around["stranger"], around["migrate"], 8080)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_names_are_asked_for_over_udp_as_well(environment: str) -> None:
    policies, around = of_kind(rendered(environment), "NetworkPolicy"), ends(environment)
    for name in OURS:
        assert allows(policies, around[name], around["names"], 53, "UDP")


@pytest.mark.parametrize("environment", MESH)
def test_the_mesh_is_strict_and_lets_in_by_account(environment: str) -> None:
    text = rendered(environment)
    assert one(text, "PeerAuthentication", "longwave")["spec"]["mtls"] == {"mode": "STRICT"}
    open_ports = [
        (entry["metadata"]["name"], entry["spec"]["portLevelMtls"])
        for entry in of_kind(text, "PeerAuthentication")
        if "portLevelMtls" in entry["spec"]
    ]
    # The engine's own TLS on the one port that callers from outside of the mesh reach.
    beside = [("longwave-ingest", {"50051": {"mode": "PERMISSIVE"}})] if environment == "production" else []
    assert open_ports == beside
    assert one(text, "AuthorizationPolicy", "longwave-default-deny")["spec"].keys() == {"selector"}
    for entry in of_kind(text, "AuthorizationPolicy"):
        for rule in entry["spec"].get("rules", []):
            (source,) = rule["from"]
            assert source["source"].keys() <= {"principals", "ipBlocks"}
            assert rule["to"][0]["operation"]["ports"]
    rules = of_kind(text, "DestinationRule")
    assert {rule["spec"]["host"] for rule in rules} == {"longwave-ingest", "longwave-admin", "longwave-webhooks"}
    assert all(rule["spec"]["trafficPolicy"]["tls"] == {"mode": "ISTIO_MUTUAL"} for rule in rules)


def test_only_webhooks_are_for_the_internet() -> None:
    (ingress,) = of_kind(rendered("production"), "Ingress")
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["path"] == "/webhooks"  # rust_core/src/telnyx/render.rs asks for /webhooks/telnyx
    assert path["backend"]["service"]["name"] == "longwave-webhooks"
    settings = one(rendered("production"), "ConfigMap", "longwave-settings")["data"]
    assert settings["LONGWAVE_WEBHOOK_BASE_URL"] == f"https://{rule['host']}"


@pytest.mark.parametrize("rendering", [name for name in RENDERINGS if name != "bare"])
def test_metrics_are_read_every_thirty_seconds_from_every_role(rendering: str) -> None:
    monitor = one(rendered(rendering), "ServiceMonitor", "longwave")["spec"]
    assert monitor["endpoints"][0]["interval"] == "30s"
    (service,) = (
        entry
        for entry in of_kind(rendered(rendering), "Service")
        if monitor["selector"]["matchLabels"].items() <= entry["metadata"]["labels"].items()
    )
    chosen = service["spec"]["selector"].items()
    labels = [labels_of(entry).items() for entry in deployments(rendering)]
    assert all(chosen <= mine for mine in labels)


def test_the_migration_comes_before_the_pods_and_after_what_it_needs() -> None:
    text = rendered("production")

    def wave(entry: Object) -> int:
        return int(entry["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", "0"))

    job = one(text, "Job", "longwave-migrate")
    assert wave(job) == -1
    needs = [
        ("ConfigMap", "longwave-migrate"),
        ("ServiceAccount", "longwave-migrate"),
        ("ExternalSecret", "longwave-secrets"),
        ("NetworkPolicy", "longwave-store"),
    ]
    assert all(wave(one(text, kind, name)) < -1 for kind, name in needs)
    assert all(wave(entry) == 0 for entry in of_kind(text, "Deployment"))
    assert container(job)["command"] == ["longwave", "migrate", "--wait-s=600", "--without-backup"]
    assert "--without-backup" not in container(one(rendered("placed"), "Job", "longwave-migrate"))["command"]
