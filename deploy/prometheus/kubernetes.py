"""Writes k8s/base/rules.yaml: the same objectives and alerts, as the Prometheus operator takes them.

kustomize puts no file into a resource as part of it, so this does. A test holds the two files together.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import Final

RULES: Final = Path(__file__).parent / "rules" / "fabric.yml"
WRITTEN: Final = Path(__file__).parents[2] / "k8s" / "base" / "rules.yaml"
_HEAD: Final = """\
# Written by `python deploy/prometheus/kubernetes.py` from deploy/prometheus/rules/fabric.yml: change that one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: { name: fabric }
spec:
"""


def text() -> str:
    """What the file has to hold."""
    return _HEAD + indent(RULES.read_text(encoding="utf-8"), "  ")


if __name__ == "__main__":
    WRITTEN.write_text(text(), encoding="utf-8")
