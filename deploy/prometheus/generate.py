"""Writes deploy/prometheus/prometheusrule.yaml: the rules as a custom resource, for the Prometheus operator.

It judges no rule; promtool does, on the files it is made of. Run it as `make dashboards`.
"""

from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
RESOURCE: Final = HERE / "prometheusrule.yaml"
HEAD: Final = """# Written by deploy/prometheus/generate.py: change deploy/prometheus/rules, then run make dashboards.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: longwave
  labels:
    app.kubernetes.io/name: longwave
    # By this the operator of kube-prometheus-stack finds rules when its release is called so, as the chart's.
    release: prometheus
spec:
  groups:
"""


def text() -> str:
    """The whole resource; the groups of all files, one after the other, each line two columns further in."""
    files = sorted((HERE / "rules").glob("*.yml"))
    groups = [path.read_text(encoding="utf-8").split("\ngroups:\n", 1)[1] for path in files]
    return HEAD + "".join(f"  {line}" if line.strip() else line for line in "\n".join(groups).splitlines(keepends=True))


if __name__ == "__main__":
    RESOURCE.write_text(text(), encoding="utf-8")
