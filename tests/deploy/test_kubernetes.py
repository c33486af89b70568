"""deploy/kubernetes: objects that Kubernetes takes, which agree with each other and with the node."""

from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from app.config import servers
from app.config.cgroup import KERNEL_ROOM_BYTES
from app.config.options import parse, settings
from app.config.values import parse_size
from tests.deploy.kubernetes import FOLDER, Manifest, arguments, container, manifest, manifests, pod_spec, variables

DEFAULTS = {setting.option: setting.default for _, setting in settings()}
VARIABLES = {setting.variable for _, setting in settings()} | {"KV_CLUSTER_SECRET_FILE"}


@pytest.mark.parametrize("one", manifests(), ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_kubernetes_takes_it(one: Manifest) -> None:
    kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


def test_each_file_is_applied() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in FOLDER.iterdir())


def test_its_pods_are_the_servers_that_found_the_cluster_and_any_more_join_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "lookup_host", lambda host: ["10.0.0.1"])
    text = manifest("ConfigMap", "kv-servers")["data"]["servers.txt"]
    listed = [str(entry) for entry in servers.parse(text.encode(), "servers.txt")]
    pods = [f"kv-{number}" for number in range(manifest("StatefulSet")["spec"]["replicas"])]
    environment = {"KV_CLUSTER_SECRET": "a secret of sixteen or more"}
    (tmp_path / "servers.txt").write_text(text)
    founders = [parse(arguments(pod, {"/etc/kv": str(tmp_path)}), environment) for pod in pods]
    assert [str(one.me) for one in founders] == listed
    assert not any(one.joins for one in founders)
    joiner = parse(arguments("kv-3", {"/etc/kv": str(tmp_path)}), environment)
    assert (joiner.joins, [str(server) for server in joiner.servers]) == (True, ["kv-3.kv:3331", *listed])


def test_pods_have_names_before_they_are_ready_and_clients_begin_at_those_that_are() -> None:
    nodes, clients = manifest("Service", "kv")["spec"], manifest("Service", "kv-client")["spec"]
    assert manifest("StatefulSet")["spec"]["serviceName"] == "kv"
    assert (nodes["clusterIP"], nodes["publishNotReadyAddresses"]) == ("None", True)
    assert "publishNotReadyAddresses" not in clients
    open_ports = {port["name"]: (port["containerPort"], port["protocol"]) for port in container()["ports"]}
    for service in (nodes, clients):
        for port in service["ports"]:
            assert open_ports[port["targetPort"]] == (port["port"], port["protocol"])


def test_all_share_one_label() -> None:
    (labels,) = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["labels"]
    template = manifest("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for selector in (manifest("StatefulSet")["spec"]["selector"], manifest("PodDisruptionBudget")["spec"]["selector"]):
        assert selector["matchLabels"] == template == labels["pairs"]


def test_its_limits_leave_room_for_the_nodes_own() -> None:
    needed = parse_size(variables({})["KV_MAX_MEMORY"]) + KERNEL_ROOM_BYTES
    resources = container()["resources"]
    for which in ("limits", "requests"):
        assert parse_size(resources[which]["memory"] + "B") == needed  # Kubernetes writes Mi
    assert "cpu" not in resources["limits"]
    assert pod_spec()["terminationGracePeriodSeconds"] > float(DEFAULTS["--leave-timeout"] or 0)


def test_its_settings_are_ones_that_there_are() -> None:
    assert variables({}).keys() <= VARIABLES
    assert container()["livenessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert container()["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}
    (http,) = (port["containerPort"] for port in container()["ports"] if port["name"] == "http")
    assert variables({})["KV_HTTP"] == str(http)
