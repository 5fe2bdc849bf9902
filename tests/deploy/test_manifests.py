"""The Kubernetes manifests: valid by KubeRay's own schema, and consistent with the program they start."""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import worldfleet
from cluster.cli import _parser
from cluster.config import RunConfig, resolve
from tests.deploy.strict_schema import errors, rayjob_schema

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "deploy" / "kuberay"

Document = dict[str, Any]


def load(name: str) -> Document:
    [document] = yaml.safe_load_all((KUBERAY / name).read_text())
    return document


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return rayjob_schema()


@pytest.fixture
def rayjob() -> Document:
    return json.loads(json.dumps(load("rayjob.yaml")))  # without the sharing that YAML anchors leave


def groups(rayjob: Document) -> Iterator[Document]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    yield cluster["headGroupSpec"]
    yield from cluster["workerGroupSpecs"]


def pods(rayjob: Document) -> Iterator[Document]:
    yield rayjob["spec"]["submitterPodTemplate"]["spec"]
    for group in groups(rayjob):
        yield group["template"]["spec"]


def gibibytes(quantity: str) -> int:
    matched = re.fullmatch(r"(\d+)Gi", quantity)
    assert matched, quantity
    return int(matched[1])


def test_rayjob_is_valid(rayjob: Document, schema: dict[str, Any]) -> None:
    assert errors(rayjob, schema) == []


def misspell_backoff(job: Document) -> None:
    job["spec"]["backofLimit"] = job["spec"].pop("backoffLimit")


def integer_start_parameter(job: Document) -> None:
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def string_deadline(job: Document) -> None:
    job["spec"]["activeDeadlineSeconds"] = "172800"


def unknown_mode(job: Document) -> None:
    job["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "tokens"


def unnamed_group(job: Document) -> None:
    del job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["groupName"]


def misplaced_volume_field(job: Document) -> None:
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["volumes"][0]["claimName"] = "runs"


def numeric_environment(job: Document) -> None:
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"][0]["value"] = 1


def missing_cluster(job: Document) -> None:
    del job["spec"]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (misspell_backoff, "'backofLimit' was unexpected"),
        (integer_start_parameter, "0 is not of type 'string'"),
        (string_deadline, "'172800' is not of type 'integer'"),
        (unknown_mode, "'tokens' is not one of"),
        (unnamed_group, "'groupName' is a required property"),
        (misplaced_volume_field, "'claimName' was unexpected"),
        (numeric_environment, "1 is not of type 'string'"),
        (missing_cluster, "'spec' is a required property"),
    ],
)
def test_mistakes_are_refused(
    rayjob: Document, schema: dict[str, Any], spoil: Callable[[Document], None], complaint: str
) -> None:
    spoil(rayjob)
    found = errors(rayjob, schema)
    assert len(found) == 1
    assert complaint in found[0]


def test_defaulted_fields_may_be_left_out(rayjob: Document, schema: dict[str, Any]) -> None:
    group = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    del group["minReplicas"], group["maxReplicas"]
    assert errors(rayjob, schema) == []


def test_quantities_may_be_numbers(rayjob: Document, schema: dict[str, Any]) -> None:
    resources = rayjob["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["resources"]
    resources["limits"]["cpu"] = resources["requests"]["cpu"] = 1
    assert errors(rayjob, schema) == []


def parse_entrypoint(rayjob: Document) -> tuple[argparse.Namespace, RunConfig]:
    program, *arguments = shlex.split(rayjob["spec"]["entrypoint"])
    assert program == "worldfleet"
    options = _parser().parse_args(arguments)
    return options, resolve(options.algo, options.env, options.scale, options.config, options.set)


def test_entrypoint_is_a_command_the_program_accepts(rayjob: Document) -> None:
    options, config = parse_entrypoint(rayjob)
    assert config.algorithm.name == "pets"
    assert options.resume_auto, "a retry re-runs the command, which must continue the run"
    mounts = {mount["mountPath"] for pod in pods(rayjob) for mount in pod["containers"][0].get("volumeMounts", ())}
    assert f"/{options.run_dir.parts[1]}" in mounts


def test_stopping_leaves_time_for_a_checkpoint(rayjob: Document) -> None:
    _, config = parse_entrypoint(rayjob)
    budget = config.cluster.stop_budget_seconds
    environment = yaml.safe_load(rayjob["spec"]["runtimeEnvYAML"])["env_vars"]
    assert int(environment["RAY_JOB_STOP_WAIT_TIME_S"]) > budget
    head = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    command = head["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "stop-driver"
    assert budget < float(command[command.index("--wait") + 1]) < head["terminationGracePeriodSeconds"]


def test_versions_agree(rayjob: Document) -> None:
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == importlib.metadata.version("ray")
    assert f"ray=={importlib.metadata.version('ray')}" in (ROOT / "constraints.txt").read_text().splitlines()
    version = worldfleet.__version__
    images = {container["image"] for pod in pods(rayjob) for container in pod["containers"]}
    assert images == {f"worldfleet:{version}"}


def test_pods_run_without_privileges(rayjob: Document) -> None:
    for pod in pods(rayjob):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert container["resources"]["requests"] == container["resources"]["limits"]
    for group in rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["template"]["spec"]["automountServiceAccountToken"] is False


def test_shared_memory_holds_the_object_store(rayjob: Document) -> None:
    for group in groups(rayjob):
        pod = group["template"]["spec"]
        [shm] = [volume for volume in pod["volumes"] if volume["name"] == "shm"]
        assert shm["emptyDir"]["medium"] == "Memory"
        memory = gibibytes(pod["containers"][0]["resources"]["limits"]["memory"])
        assert 0.3 * memory <= gibibytes(shm["emptyDir"]["sizeLimit"]) < 0.5 * memory


def test_volumes_match_their_mounts(rayjob: Document) -> None:
    claim = load("storage.yaml")
    for group in groups(rayjob):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == set(volumes)
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "every pod mounts it"


def test_only_rollout_workers_scale(rayjob: Document) -> None:
    workers = {group["groupName"]: group for group in rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    assert set(workers) == {"learner", "replay", "planner", "rollout"}
    for name, group in workers.items():
        assert group["labels"] == {"role": name}
        assert (group["minReplicas"] < group["maxReplicas"]) == (name == "rollout")
    assert rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_actors_fit_the_groups_at_their_smallest(rayjob: Document) -> None:
    _, config = parse_entrypoint(rayjob)
    needed = Counter[tuple[str, str]]()
    for name, section in config.roles.items():
        if config.count(name):
            assert section.labels == {"role": "learner" if name == "weights" else name}
            needed[section.labels["role"], "cpu"] += config.count(name) * section.cpus
            needed[section.labels["role"], "nvidia.com/gpu"] += config.count(name) * (section.gpus or 0.0)
    for group in rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for kind in ("cpu", "nvidia.com/gpu"):
            assert needed.pop((group["groupName"], kind), 0) <= group["minReplicas"] * int(limits.get(kind, 0))
    assert not needed


def test_no_deadline_contradicts_another(rayjob: Document) -> None:
    spec = rayjob["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    ports = [port["containerPort"] for port in next(groups(rayjob))["template"]["spec"]["containers"][0]["ports"]]
    assert all(a != b for a, b in itertools.combinations(ports, 2))
