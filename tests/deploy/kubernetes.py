"""Reads deploy/kubernetes, and says what Kubernetes would start by it."""

from typing import Any, Final

import yaml

from tests.support.nodes import REPOSITORY

FOLDER: Final = REPOSITORY / "deploy" / "kubernetes"
Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    """All objects, in the order of kustomization.yaml."""
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    return [one for name in names for one in yaml.safe_load_all((FOLDER / name).read_text())]


def manifest(kind: str, name: str = "kv") -> Manifest:
    """The object of that kind and name."""
    (found,) = (one for one in manifests() if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def pod_spec() -> Manifest:
    """What every pod is made of."""
    spec: Manifest = manifest("StatefulSet")["spec"]["template"]["spec"]
    return spec


def container() -> Manifest:
    (one,) = pod_spec()["containers"]
    return dict(one)


def arguments(pod: str, paths: dict[str, str]) -> list[str]:
    """The node's command line in the pod of that name. `paths`: where mounted folders are here."""
    return [_here(text.replace("$(POD_NAME)", pod), paths) for text in container()["args"]]


def variables(paths: dict[str, str]) -> dict[str, str]:
    """The node's environment; without what Kubernetes puts in for each pod."""
    given = {one["name"]: one["value"] for one in container()["env"] if "value" in one}
    for source in container()["envFrom"]:
        given |= manifest("ConfigMap", source["configMapRef"]["name"])["data"]
    return {name: _here(text, paths) for name, text in given.items()}


def _here(text: str, paths: dict[str, str]) -> str:
    for folder, path in paths.items():
        text = text.replace(folder, path)
    return text
