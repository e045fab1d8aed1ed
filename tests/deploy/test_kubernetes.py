"""k8s/ renders, fits the schemas of Kubernetes, KEDA and the Prometheus operator, and keeps rules of its own.

No cluster runs here: what one would make of it is not proved.
Proves: OP-5 (Kubernetes: rendered, valid, by policy), MB-3 (three nodes, apart, which sync always)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate  # pyright: ignore[reportMissingTypeStubs]
import pytest
import yaml

from deploy.stack import ROOT

Json = dict[str, Any]

KUBECTL: Final = Path(sys.executable).with_name("kubectl")
VERSION: Final = "1.34"
OVERLAYS: Final = ("dev", "prod")
CUSTOM: Final = ("keda.sh", "monitoring.coreos.com")
DRAIN_SECONDS: Final = 45
"""What a gateway or a pool may need to end what is in hand."""


@cache
def rendered(overlay: str) -> list[Json]:
    command = [str(KUBECTL), "kustomize", str(ROOT / "k8s" / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "kustomize warns"
    return list(yaml.safe_load_all(done.stdout))


def of(overlay: str, *kinds: str) -> list[Json]:
    return [each for each in rendered(overlay) if each["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Json:
    (found,) = [each for each in of(overlay, kind) if each["metadata"]["name"] == name]
    return found


def workloads(overlay: str) -> list[Json]:
    return of(overlay, "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")


def pods() -> list[Any]:
    """Every pod of every overlay, under its name."""
    return [
        pytest.param(each["spec"]["template"], id=f"{overlay}-{each['metadata']['name']}")
        for overlay in OVERLAYS
        for each in workloads(overlay)
    ]


def is_custom(resource: Json) -> bool:
    return resource["apiVersion"].partition("/")[0] in CUSTOM


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_fits_its_schema(overlay: str) -> None:
    others = [] if overlay == "prod" else rendered("prod")
    for resource in rendered(overlay):
        if not is_custom(resource) and resource not in others:
            kubernetes_validate.validate(resource, VERSION, strict=True)


def test_every_custom_resource_fits_the_schema_of_its_package() -> None:
    custom = [each for each in rendered("prod") if is_custom(each)]
    wrong: list[Json] = [{**each, "spec": {}} for each in custom if each["kind"] == "ScaledObject"]
    assert {each["kind"] for each in custom} == {"ScaledObject", "PodMonitor", "ServiceMonitor", "PrometheusRule"}
    assert not [each for each in rendered("dev") if is_custom(each)], "a small cluster has none of their controllers"
    assert unfit(custom) == []
    assert len(unfit(wrong)) == len(wrong) > 0, "the schemas refuse nothing"


def unfit(resources: list[Json]) -> list[str]:
    script = Path(__file__).with_name("models.mjs")
    node = Path(sys.executable).with_name("node")
    done = subprocess.run([str(node), str(script)], input=json.dumps(resources), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("template", pods())
def test_no_pod_may_do_more_than_it_has_to(template: Json) -> None:
    pod = template["spec"]
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 10_000
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all("hostPath" not in volume for volume in pod["volumes"])
    for container in pod["containers"]:
        locked = container["securityContext"]
        assert locked["allowPrivilegeEscalation"] is False
        assert locked["readOnlyRootFilesystem"] is True
        assert locked["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("template", pods())
def test_every_container_has_limits_probes_and_a_version(template: Json) -> None:
    for container in template["spec"]["containers"]:
        assert re.search(r":[\w.-]+(@sha256:\w{64})?$", container["image"]), container["image"]
        assert not container["image"].endswith(":latest")
        for bounds in ("requests", "limits"):
            assert container["resources"][bounds].keys() == {"cpu", "memory"}
        assert container.keys() >= {"startupProbe", "readinessProbe", "livenessProbe"}


@pytest.mark.parametrize("template", pods())
def test_every_pod_is_spread_and_has_time_to_drain(template: Json) -> None:
    pod = template["spec"]
    own = template["metadata"]["labels"]
    for spread in pod["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"].items() <= own.items()
    if "fabric/bus" in own:
        assert pod["terminationGracePeriodSeconds"] > DRAIN_SECONDS


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_and_configuration_are_only_named(overlay: str, tmp_path: Path) -> None:
    script = tmp_path / "secrets.sh"  # it makes them beside itself
    script.write_text((ROOT / "deploy" / "secrets.sh").read_text())
    printed = subprocess.run(["sh", str(script), "--kubernetes"], capture_output=True, text=True, check=True).stdout
    made = yaml.safe_load_all(printed)
    secrets = {each["metadata"]["name"]: each["stringData"] for each in made}
    configured = {each["metadata"]["name"]: each["data"] for each in of(overlay, "ConfigMap")}
    assert of(overlay, "Secret") == []
    for workload in workloads(overlay):
        pod = workload["spec"]["template"]["spec"]
        for volume in pod["volumes"]:
            if "secret" in volume:
                keys = {item["key"] for item in volume["secret"]["items"]}
                assert keys <= secrets[volume["secret"]["secretName"]].keys(), workload["metadata"]["name"]
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configured
        for container in pod["containers"]:
            assert all(each["configMapRef"]["name"] in configured for each in container.get("envFrom", ()))
            assert not any("PASSWORD" in each["name"] for each in container.get("env", ()))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_not_opened_is_closed(overlay: str) -> None:
    policies = of(overlay, "NetworkPolicy")
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in [each["spec"] for each in policies]
    containers = [each["spec"]["template"]["spec"]["containers"][0] for each in workloads(overlay)]
    ports = {port["name"] for each in containers for port in each["ports"]}
    for policy in policies:
        rules = [*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ())]
        assert all(rule.get("from") or rule.get("to") for rule in rules), "it opens to anybody"
        opened = {port["port"] for rule in rules for port in rule["ports"]}
        assert {port for port in opened if isinstance(port, str)} <= ports
    redis = named(overlay, "NetworkPolicy", "valkey")["spec"]["ingress"][0]["from"]
    who = [each["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for each in redis]
    assert who == ["registry", "valkey"]


def test_the_bus_survives_a_machine() -> None:
    nats = named("prod", "StatefulSet", "nats")["spec"]
    assert nats["replicas"] == 3
    (apart,) = nats["template"]["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    assert named("prod", "PodDisruptionBudget", "nats")["spec"]["maxUnavailable"] == 1
    by_prefix = {each["metadata"]["name"].rpartition("-")[0]: each["data"] for each in of("prod", "ConfigMap")}
    written = by_prefix["nats"]["nats.conf"]
    assert "sync_interval: always" in written
    assert re.findall(r"nats://(\S+?):6222", written) == [f"nats-{number}.nats" for number in range(3)]
    assert by_prefix["fabric"]["FABRIC_REPLICAS"] == "3"


def test_what_serves_is_scaled_kept_and_watched() -> None:
    scaled = {each["spec"]["scaleTargetRef"]["name"] for each in of("prod", "HorizontalPodAutoscaler", "ScaledObject")}
    kept = {each["metadata"]["name"] for each in of("prod", "PodDisruptionBudget")}
    names = {each["metadata"]["name"] for each in workloads("prod")}
    assert scaled == {"gateway", "pool-linter"}
    assert kept == names
    assert not [each for each in workloads("prod") if each["metadata"]["name"] in scaled and "replicas" in each["spec"]]
    gateway = named("prod", "Deployment", "gateway")["spec"]["template"]["spec"]["containers"][0]
    assert gateway["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5
    queues = [each["metadata"] for each in named("prod", "ScaledObject", "pool-linter")["spec"]["triggers"]][:4]
    assert {(each["account"], each["stream"]) for each in queues} == {("FABRIC", "FAB_TASKS")}
    assert [each["consumer"] for each in queues] == [f"linter-{each}" for each in ("critical", "high", "normal", "low")]
