"""The files of `cluster/` agree with each other, with the command line and with their schemas."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.cli import VERBS

CLUSTER = Path(__file__).parents[2] / "cluster"
IMAGE = "extpose:0.1.0"
MANIFESTS = sorted(CLUSTER.glob("*.yaml"))

QUANTITY = {"type": "string", "pattern": r"^[0-9]+(Gi|Mi)?$"}
COUNT = {"type": "integer", "minimum": 0}
TEXT = {"type": "string", "minLength": 1}


def record(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


def some(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


RESOURCES = record({"cpu": QUANTITY, "memory": QUANTITY}, **{"nvidia.com/gpu": QUANTITY})
CONTAINER = record(
    {
        "name": TEXT,
        "image": {"const": IMAGE},
        "resources": record({"requests": RESOURCES, "limits": RESOURCES}),
        "volumeMounts": some(record({"name": TEXT, "mountPath": {"const": "/data"}})),
    }
)
CLAIM = record({"name": TEXT, "persistentVolumeClaim": record({"claimName": TEXT})})
TEMPLATE = record({"spec": record({"containers": some(CONTAINER), "volumes": some(CLAIM)})})
START = {"type": "object", "additionalProperties": {"type": "string"}}
"""KubeRay takes the parameters of `ray start` as strings: a bare 0 is refused."""
RAY_CLUSTER = record(
    {
        "rayVersion": {"const": "2.60.0"},
        "authOptions": record({"mode": {"enum": ["token", "disabled"]}}),
        "headGroupSpec": record({"rayStartParams": START, "template": TEMPLATE}),
        "workerGroupSpecs": some(
            record(
                {
                    "groupName": TEXT,
                    "replicas": COUNT,
                    "minReplicas": COUNT,
                    "maxReplicas": COUNT,
                    "rayStartParams": START,
                    "template": TEMPLATE,
                }
            )
        ),
    },
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=record({"version": {"enum": ["v1", "v2"]}, "idleTimeoutSeconds": COUNT}),
)
RAY_JOB = record(
    {"entrypoint": TEXT, "rayClusterSpec": RAY_CLUSTER},
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    activeDeadlineSeconds=COUNT,
    backoffLimit=COUNT,
)


def check(manifest: dict[str, Any]) -> None:
    spec = {"RayCluster": RAY_CLUSTER, "RayJob": RAY_JOB}[manifest["kind"]]
    schema = record(
        {
            "apiVersion": {"const": "ray.io/v1"},
            "kind": TEXT,
            "metadata": record({"name": TEXT}),
            "spec": spec,
        }
    )
    jsonschema.validate(manifest, schema)


def load(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load(path.read_text())
    return manifest


def entrypoints() -> dict[str, list[str]]:
    jobs = {path.name: load(path)["spec"] for path in MANIFESTS}
    return {
        name: shlex.split(spec["entrypoint"]) for name, spec in jobs.items() if "entrypoint" in spec
    }


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_fields_are_kuberays(path: Path) -> None:
    check(load(path))


def test_a_misspelt_field_is_caught() -> None:
    manifest = load(CLUSTER / "rayjob-train.yaml")
    manifest["spec"]["shutdownAfterJobFinish"] = True
    with pytest.raises(jsonschema.ValidationError, match="shutdownAfterJobFinish"):
        check(manifest)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_volumes_and_sizes_fit(path: Path) -> None:
    spec = load(path)["spec"]
    spec = spec.get("rayClusterSpec", spec)
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        for container in pod["containers"]:
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}
            assert container["resources"]["requests"] == container["resources"]["limits"]
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_entrypoints_are_verbs_and_the_same_everywhere() -> None:
    commands = entrypoints()
    assert set(commands) == {"rayjob-preprocess.yaml", "rayjob-train.yaml"}
    readme = (CLUSTER / "README.md").read_text()
    slurm = (CLUSTER / "slurm.sbatch").read_text().replace("\\\n#", "")
    for program, verb, *options in commands.values():
        assert program == "extpose"
        assert verb in VERBS
        assert shlex.join(["extpose", verb, *options]) in readme
        assert re.search(rf"slurm\.sbatch\s+{re.escape(shlex.join([verb, *options]))}", slurm)
        assert f"cluster/slurm.sbatch {shlex.join([verb, *options])}" in readme


def test_one_image_and_one_ray() -> None:
    for name in ("Dockerfile", "README.md", "slurm.sbatch"):
        named = set(re.findall(r"extpose:[0-9][0-9.]*[0-9]", (CLUSTER / name).read_text()))
        assert named == {IMAGE}, name
    project = (CLUSTER.parent / "pyproject.toml").read_text()
    assert 'version = "0.1.0"' in project
    assert "ray[default,data,train]==2.60.0" in project
    copied = re.findall(r"^COPY (.+) \S+$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    for name in " ".join(copied).split():
        assert (CLUSTER.parent / name).exists() or name == "README.md", name


STANDINS = {
    "scontrol": 'printf "node-a\\nnode-b\\nnode-c\\n"',
    "srun": """
        echo "srun $*" >> "$LOG"
        while [[ "${1:-}" == --* ]]; do shift; done
        exec "$@"
    """,
    "hostname": "echo 10.0.0.7 fe80::1",
    "ray": """
        echo "ray $* token=${#RAY_AUTH_TOKEN} RAY_ADDRESS=${RAY_ADDRESS:-}" >> "$LOG"
        [ "$1" != start ] || exec sleep 60
        [ "$1" != status ] || [ "$(grep -c "^ray status" "$LOG")" -gt 2 ]
    """,
    "extpose": 'echo "extpose $* RAY_ADDRESS=$RAY_ADDRESS" >> "$LOG"; sleep 0.5; exit 3',
}


def test_slurm_script_runs_with_standins(tmp_path: Path) -> None:
    """Head, then workers, then the verb; the verb's exit code; nothing left behind.

    A process left behind would hold the output open and `subprocess.run` would time out.
    """
    for name, body in STANDINS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LOG": str(log),
        "SLURM_JOB_NODELIST": "node-[a-c]",
        "SLURM_CPUS_PER_TASK": "8",
        "EXTPOSE_POLL_SECONDS": "0.1",
    }
    script = ["bash", str(CLUSTER / "slurm.sbatch")]
    assert subprocess.run(["bash", "-n", script[1]], check=False).returncode == 0
    done = subprocess.run([*script, "validate", "a b"], env=env, timeout=120, capture_output=True)
    assert done.returncode == 3, done.stderr
    lines = log.read_text().splitlines()
    runs = [line for line in lines if not line.startswith("srun")]
    head = (
        "ray start --head --block --node-ip-address=10.0.0.7 --port=26379 --num-cpus=8 "
        "--num-gpus=0 token=64 RAY_ADDRESS="
    )
    assert runs.count(head) == 1
    assert any(line.startswith("ray start --block --address=10.0.0.7:26379") for line in runs)
    assert "extpose validate a b RAY_ADDRESS=10.0.0.7:26379" in runs
    assert any("--nodes=2 --ntasks=2" in line and "--exclude=node-a" in line for line in lines)
    assert all(f"--container-image={IMAGE}" in line for line in lines if line.startswith("srun"))
    assert subprocess.run(script, env=env, timeout=120, capture_output=True).returncode == 2
