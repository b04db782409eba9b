"""The manifests, the image, the recipe and the code agree with each other."""

from __future__ import annotations

import ast
import importlib
import shlex
import tomllib
from pathlib import Path

from ray.serve.schema import gRPCOptionsSchema

from jobs.workspace import ALIAS, STORE
from pipeline.config import load_recipe
from pipeline.strict import parse
from serving.machine.launch import THREAD_VARIABLES, ray_environment
from serving.rpc.methods import SERVICER_FUNCTIONS
from serving.settings import Settings
from tests.manifests import (
    K8S,
    KUSTOMIZATION,
    ROOT,
    all_pod_templates,
    documents,
    mounts_of,
    pod_templates,
    serving_config,
    the,
)


def test_the_kustomization_lists_every_manifest():
    manifests = {path.name for path in K8S.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(KUSTOMIZATION["resources"]) == manifests


def test_the_cluster_runs_the_version_of_ray_that_is_pinned():
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    versions = {
        the("RayJob")["spec"]["rayClusterSpec"]["rayVersion"],
        the("RayService")["spec"]["rayClusterConfig"]["rayVersion"],
    }
    assert [f"ray=={version}" for version in versions] == [
        line for line in pins if line.startswith("ray==")
    ]


def test_every_pod_runs_the_image_of_this_version_that_the_kustomization_places():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (image,) = KUSTOMIZATION["images"]
    assert image["newTag"] == f"{project['version']}-cpu"
    for template in all_pod_templates():
        (container,) = template["spec"]["containers"]
        assert container["image"] == f"{image['name']}:{image['newTag']}"
    assert image["newTag"] in (ROOT / "Dockerfile").read_text("utf-8")


def test_no_pod_may_become_root():
    for template in all_pod_templates():
        pod, (container,) = template["spec"], template["spec"]["containers"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert f"USER {pod['securityContext']['runAsUser']}\n" in (
            ROOT / "Dockerfile"
        ).read_text("utf-8")
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}
        }


def test_every_pod_says_what_it_needs():
    for template in all_pod_templates():
        (container,) = template["spec"]["containers"]
        resources = container["resources"]
        assert set(resources["requests"]) == {"cpu", "memory"}
        # The object store is sized from the limit; a request below it invites an eviction.
        assert resources["limits"]["memory"] == resources["requests"]["memory"]


def test_what_a_pod_mounts_is_there():
    claims = {d["metadata"]["name"] for d in documents() if d["kind"] == "PersistentVolumeClaim"}
    configs = {entry["name"] for entry in KUSTOMIZATION["configMapGenerator"]}
    secrets = {entry["name"]: entry["files"] for entry in KUSTOMIZATION["secretGenerator"]}
    used = set()
    for template in all_pod_templates():
        (container,) = template["spec"]["containers"]
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                used.add(volume["persistentVolumeClaim"]["claimName"])
            elif "configMap" in volume:
                assert volume["configMap"]["name"] in configs
            else:
                files = secrets[volume["secret"]["secretName"]]
                assert {item["key"] for item in volume["secret"]["items"]} <= set(files)
    assert used == claims


def test_the_names_of_generated_resources_stay_as_the_manifests_write_them():
    assert KUSTOMIZATION["generatorOptions"] == {"disableNameSuffixHash": True}


def test_git_ignores_every_file_with_a_secret():
    ignored = (K8S / ".gitignore").read_text("utf-8").splitlines()
    for secret in KUSTOMIZATION["secretGenerator"]:
        for name in secret["files"]:
            assert name in ignored


def test_prometheus_scrapes_the_server_and_one_pod_of_it_with_a_key():
    monitor = the("PodMonitor")["spec"]
    (head,) = pod_templates("RayService")
    wanted = dict(monitor["selector"]["matchLabels"])
    # KubeRay sets this one, on the one head of a cluster.
    assert wanted.pop("ray.io/node-type") == "head"
    assert wanted.items() <= head["metadata"]["labels"].items()
    for template in pod_templates("RayJob"):
        assert not wanted.items() <= template["metadata"]["labels"].items()
    (endpoint,) = monitor["podMetricsEndpoints"]
    ports = {p["name"]: p["containerPort"] for p in head["spec"]["containers"][0]["ports"]}
    assert ports[endpoint["port"]] == serving_config()["http_options"]["port"]
    credentials = endpoint["authorization"]["credentials"]
    (secret,) = KUSTOMIZATION["secretGenerator"]
    assert credentials["name"] == secret["name"]
    assert credentials["key"] in secret["files"]


def test_the_job_runs_a_recipe_that_reads():
    entrypoint = shlex.split(the("RayJob")["spec"]["entrypoint"])
    head, workers = pod_templates("RayJob")
    mounts = mounts_of(head)
    (config,) = KUSTOMIZATION["configMapGenerator"]
    (name,) = config["files"]
    assert entrypoint == ["cd", mounts["data"], "&&", "limen", "run", f"{mounts['recipe']}/{name}"]
    recipe = load_recipe(K8S / name)
    assert Path(recipe.data.items).is_relative_to(mounts["data"])
    group = the("RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert recipe.train.workers == group["replicas"]
    # The workers read the workspace under the path that the driver names.
    assert mounts_of(workers)["data"] == mounts["data"]


def test_the_service_asks_for_an_application_with_settings_that_exist():
    (application,) = serving_config()["applications"]
    module, _, name = application["import_path"].partition(":")
    tree = ast.parse((ROOT / Path(*module.split("."))).with_suffix(".py").read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    settings = parse(Settings, application["args"], "serveConfigV2")
    (head,) = pod_templates("RayService")
    mounts = mounts_of(head)
    # The job's store, its alias, and the folders where this pod has them.
    assert settings.release == ALIAS
    assert settings.store == f"{mounts_of(pod_templates('RayJob')[0])['data']}/{STORE}"
    assert Path(settings.keys).is_relative_to(mounts["keys"])
    assert settings.records.startswith(f"sqlite:///{mounts['records']}/")
    # The records are SQLite: one pod, and the replicas fit beside the monitor.
    assert "workerGroupSpecs" not in the("RayService")["spec"]["rayClusterConfig"]
    (container,) = head["spec"]["containers"]
    assert settings.replicas <= int(container["resources"]["requests"]["cpu"])


def test_the_service_sets_the_flags_of_ray_as_the_command_line_does(tmp_path: Path):
    (head,) = pod_templates("RayService")
    flags = {entry["name"]: entry["value"] for entry in head["spec"]["containers"][0]["env"]}
    assert flags.items() <= ray_environment(tmp_path, haproxy=True).items()
    assert {"RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"} <= set(flags)
    assert set(THREAD_VARIABLES) <= set(flags)


def test_the_service_answers_grpc_with_every_method_and_nothing_else():
    options = serving_config()["grpc_options"]
    assert gRPCOptionsSchema(**options).model_dump() == {
        "port": 9000, "grpc_servicer_functions": list(SERVICER_FUNCTIONS),
        "request_timeout_s": None, "enable_reflection": False,
    }
    for path in options["grpc_servicer_functions"]:
        module, _, name = path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
    (container,) = pod_templates("RayService")[0]["spec"]["containers"]
    assert options["port"] in [port["containerPort"] for port in container["ports"]]


def test_what_the_admin_endpoints_need_is_said_where_it_is_missing():
    (head,) = pod_templates("RayService")
    (data,) = [mount for mount in head["spec"]["containers"][0]["volumeMounts"]
               if mount["name"] == "data"]
    text = (K8S / "ray-service.yaml").read_text("utf-8")
    assert data["readOnly"] is True
    assert "until `readOnly` is taken from the volume `data`" in text
    (application,) = serving_config()["applications"]
    settings = parse(Settings, application["args"], "serveConfigV2")
    # Trail and records lie where the pod may write.
    mounts = mounts_of(head)
    assert Path(settings.trail).is_relative_to(mounts["records"])
