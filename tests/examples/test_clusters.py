"""The scripts of docs/howto/clusters.md: parsed, and their commands those of the programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tyro
import yaml

from stacked_ram.cli.serve import Serve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/howto/clusters.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.M)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_slurm_script_is_sound_and_trains(tmp_path: Path) -> None:
    """With stand-ins for Slurm's programs it starts a run, and then goes on with it."""
    (script,) = blocks("text")
    assert all(line.startswith("#SBATCH --") for line in re.findall("#SBATCH.*", script))
    (tmp_path / "run").mkdir()
    script = script.replace("/shared/runs/mine", str(tmp_path / "run"))
    stubs = 'scontrol() { echo node1; echo node2; }; srun() { echo "$@"; }\n'
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_NNODES": "2",
        "SLURM_CPUS_PER_TASK": "32",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }

    def started() -> str:
        command = ["bash", "-eu", "-c", stubs + script]
        return subprocess.run(
            command, env=os.environ | slurm, check=True, capture_output=True, text=True
        ).stdout

    assert "node1:29500 main.py train flowers17_lite0 --dataset" in started()
    (tmp_path / "run/config.yaml").touch()
    assert started().endswith(f"main.py train --resume {tmp_path / 'run'}\n")


def test_the_pod_serves_as_the_image_of_the_dockerfile_does() -> None:
    (text,) = blocks("yaml")
    (deployment,) = yaml.safe_load_all(text)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    program, command, *words = container["args"]
    assert (program, command) == ("main.py", "serve")
    options = tyro.cli(Serve, args=[str(word) for word in words])
    assert container["ports"] == [{"containerPort": options.port}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": options.port}
    mounted = [mount["name"] for mount in container["volumeMounts"]]
    assert mounted == [volume["name"] for volume in pod["volumes"]]
    user = container["securityContext"]["runAsUser"]
    assert f"useradd --create-home --uid {user} " in (ROOT / "Dockerfile").read_text()
