"""The image and the manifests are valid, each by the schema of its kind.

KubeRay's kinds are checked against its own definitions, where an unknown field is an error (the
API server would drop it in silence); Kubernetes' kinds against its published schemas. PodMonitor
and PrometheusRule have no schema here, so their shape is spelt out; ``test_alert_rule.py`` runs
the rule itself, ``test_deployment.py`` looks at how they fit together.
"""

from __future__ import annotations

import functools
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.manifests import RAY_KINDS, ROOT, documents, pod_templates, the
from tests.promtool import ALERT

SCRIPTS = Path(sysconfig.get_path("scripts"))
KUBERAY = {"RayJob": "ray.io_rayjobs.yaml", "RayService": "ray.io_rayservices.yaml"}


@functools.cache
def kuberay(kind: str) -> jsonschema.Draft202012Validator:
    """Checks against KubeRay's definition, closed: a field it does not name is not allowed."""
    text = (ROOT / "tests" / "schemas" / KUBERAY[kind]).read_text("utf-8")
    # The plain Python loader takes ten times as long for these megabytes.
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert definition["spec"]["names"]["kind"] == kind
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    return jsonschema.Draft202012Validator(_closed(version["schema"]["openAPIV3Schema"]))


def _closed(schema: Any) -> Any:
    """JSON Schema of a structural OpenAPI schema in which unknown fields are errors."""
    if isinstance(schema, list):
        return [_closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    is_object = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    if is_object and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPTS / program, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )


def test_hadolint_finds_nothing_in_the_dockerfile():
    done = run("hadolint", "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_yamllint_finds_nothing_in_the_manifests():
    done = run("yamllint", "--strict", "k8s")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", RAY_KINDS)
def test_kuberay_knows_every_field_of(kind: str):
    kuberay(kind).validate(the(kind))


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (("spec",), "entryPoint"),
        (("spec", "rayClusterSpec"), "workerGroupSpec"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec"), "volume"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0), "envs"),
    ],
)
def test_a_field_that_kuberay_does_not_know_is_found(path: tuple[str | int, ...], field: str):
    manifest = place = the("RayJob")
    for step in path:
        place = place[step]  # type: ignore[index]  # a path goes through mappings and lists
    place[field] = []
    with pytest.raises(jsonschema.ValidationError, match=f"'{field}' was unexpected"):
        kuberay("RayJob").validate(manifest)


def test_a_value_of_the_wrong_type_is_found():
    manifest = the("RayJob")
    manifest["spec"]["backoffLimit"] = "2"
    with pytest.raises(jsonschema.ValidationError, match="is not of type 'integer'"):
        kuberay("RayJob").validate(manifest)


def test_kubernetes_accepts_every_core_resource():
    core = [document for document in documents() if "." not in document["apiVersion"]]
    assert {document["kind"] for document in core} == {"Namespace", "PersistentVolumeClaim"}
    for document in core:
        kubernetes_validate.validate(document, "1.37", strict=True)


@pytest.mark.parametrize("kind", RAY_KINDS)
def test_kubernetes_accepts_every_pod_of(kind: str):
    # Stricter than KubeRay's copy of the pod schema in places, such as enumerations.
    for template in pod_templates(kind):
        pod = {"apiVersion": "v1", "kind": "Pod",
               "metadata": {"name": "pod", **template["metadata"]}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, "1.37", strict=True)


def test_the_pod_monitor_has_the_operators_shape():
    monitor = the("PodMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"selector", "podMetricsEndpoints"}
    assert set(monitor["spec"]["selector"]) == {"matchLabels"}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert set(endpoint) == {
        "port", "path", "scheme", "interval", "scrapeTimeout", "authorization"
    }
    assert (endpoint["path"], endpoint["scheme"]) == ("/metrics", "http")
    assert endpoint["authorization"]["type"] == "Bearer"
    assert set(endpoint["authorization"]["credentials"]) == {"name", "key"}


def test_the_prometheus_rule_has_the_operators_shape():
    rule = the("PrometheusRule")
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(rule["spec"]) == {"groups"}
    for group in rule["spec"]["groups"]:
        assert set(group) == {"name", "rules"}
        for entry in group["rules"]:
            assert set(entry) == {"alert", "expr", "for", "labels", "annotations"}
            assert set(entry["annotations"]) == {"summary", "description"}
    assert [r["alert"] for g in rule["spec"]["groups"] for r in g["rules"]] == [ALERT]
