"""What ``kubectl apply -k k8s`` would send, for the tests that look at it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
K8S = ROOT / "k8s"
RAY_KINDS = ("RayJob", "RayService")
Manifest = dict[str, Any]

KUSTOMIZATION: Manifest = yaml.safe_load((K8S / "kustomization.yaml").read_text("utf-8"))


def documents() -> list[Manifest]:
    """Every resource that ``kubectl apply -k k8s`` would send, without the generated ones."""
    return [
        document
        for name in KUSTOMIZATION["resources"]
        for document in yaml.safe_load_all((K8S / name).read_text("utf-8"))
    ]


def the(kind: str) -> Manifest:
    """The one resource of this kind."""
    (found,) = (document for document in documents() if document["kind"] == kind)
    return copy.deepcopy(found)


def pod_templates(kind: str) -> list[Manifest]:
    """The pod templates of the Ray cluster of a RayJob or RayService, the head's first."""
    spec = the(kind)["spec"]
    cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    return [group["template"] for group in groups]


def all_pod_templates() -> list[Manifest]:
    """The pod templates of every Ray cluster."""
    return [template for kind in RAY_KINDS for template in pod_templates(kind)]


def serving_config() -> Manifest:
    """What the RayService asks of Ray Serve."""
    config: Manifest = yaml.safe_load(the("RayService")["spec"]["serveConfigV2"])
    return config


def mounts_of(template: Manifest) -> dict[str, str]:
    """Where the one container of a pod has its volumes: name of the volume to folder."""
    (container,) = template["spec"]["containers"]
    return {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
