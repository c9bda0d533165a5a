"""Two processes train as a single process; a killed process is restarted. On CPUs, with gloo."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
import torch
from tiny import tiny_config, tiny_digits, tiny_photos
from torch.nn.parallel import DistributedDataParallel

from stacked_ram.cli.predict import Predict, predict
from stacked_ram.config.schema import Config
from stacked_ram.preparation.pack import write_shards
from stacked_ram.runs.checkpoint import read_weights, state_files
from stacked_ram.runs.folder import save_config
from stacked_ram.training.run import train_run

ROOT = Path(__file__).parents[2]
# Without random numbers, because two processes would draw others than a single process.
FIXED = {"first_location": "centre", "num_glimpses": 1, "epochs": 2, "ema_decay": 0.9}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def as_rank_of_two(rank: int, port: int, work, *arguments) -> None:
    """Run `work` as torchrun would start it."""
    from stacked_ram.runtime.distributed import join_world, leave_world

    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    try:
        work(join_world(), *arguments)
    finally:
        leave_world()


def in_two_processes(work, *arguments) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "timm", "stacked_ram.training.trainer"])
    port = free_port()
    both = [
        context.Process(target=as_rank_of_two, args=(rank, port, work, *arguments))
        for rank in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]


def train_in_world(world, config: Config, folder: Path) -> None:
    train_run(config, folder, world)


def train_and_leave(world, config: Config, folder: Path) -> None:
    """Train with objects that refer to each other, as a command's callbacks may."""
    import gc

    from stacked_ram.runtime.distributed import leave_world
    from stacked_ram.training.callbacks import Callback

    class Circle(Callback):
        def on_train_start(self, trainer):
            self.trainer = trainer
            trainer.circle = self

    gc.disable()
    train_run(config, folder, world, callbacks=[Circle()])
    leave_world()
    reducers = [one for one in gc.get_objects() if isinstance(one, DistributedDataParallel)]
    assert not reducers, "a reducer outlives its group, which may end the process"


def test_nothing_of_the_training_outlives_its_processes_group(tmp_path):
    data = tiny_digits(tmp_path / "data")
    config = tiny_config(data, epochs=1, retina="conv")
    in_two_processes(train_and_leave, config, tmp_path / "run")
    assert "batch norm: processes on a CPU" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("count", [48, 44], ids=["whole batches", "uneven last batch"])
def test_two_processes_train_as_a_single_process_on_the_same_global_batch(tmp_path, count):
    data = tiny_digits(tmp_path / "data", counts=(count, 17, 3))
    train_run(tiny_config(data, batch_size=16, **FIXED), tmp_path / "one")
    in_two_processes(train_in_world, tiny_config(data, batch_size=8, **FIXED), tmp_path / "two")
    single, _ = read_weights(tmp_path / "one" / "last.safetensors")
    two, _ = read_weights(tmp_path / "two" / "last.safetensors")
    for name, value in single.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
    tables = [pandas.read_csv(tmp_path / name / "metrics.csv") for name in ("one", "two")]
    # 17 validation photos do not divide evenly; none is counted twice.
    right = tables[1]["valid_accuracy"] * 17
    assert (abs(right - right.round()) < 1e-3).all()
    for column in ("valid_accuracy", "valid_loss", "train_total", "train_accuracy"):
        pandas.testing.assert_series_equal(*(table[column] for table in tables), rtol=1e-4)
    assert len(state_files(tmp_path / "two")) == 2


@pytest.mark.parametrize("make", [tiny_digits, tiny_photos])
def test_a_process_may_have_nothing_to_validate(tmp_path, make):
    data = make(tmp_path / "data", counts=(18, 6, 3))
    in_two_processes(train_in_world, tiny_config(data, batch_size=8, epochs=1), tmp_path / "run")
    right = pandas.read_csv(tmp_path / "run" / "metrics.csv")["valid_accuracy"] * 6
    assert (abs(right - right.round()) < 1e-3).all()


def test_processes_draw_different_scan_paths(tmp_path):
    from stacked_ram.runtime.devices import seed_everything

    drawn = []
    for rank in range(2):
        seed_everything(0, rank, 5)
        drawn.append(torch.rand(4))
    assert not torch.equal(*drawn)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_torchrun_restarts_from_the_last_checkpoint_when_a_worker_is_killed(digits, tmp_path):
    config = tiny_config(digits, epochs=400, save_every=0.0, schedule="constant")
    save_config(config, tmp_path / "a.yaml")
    run = tmp_path / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(tmp_path / "output", "w") as output:
        launched = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
             "--max-restarts", "1", "--standalone", "--monitor-interval", "0.1",
             str(ROOT / "main.py"), "train", str(tmp_path / "a.yaml"), "--out", str(run)],
            env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_for(lambda: len(state_files(run)) == 2, launched)
        reached = step_of(run)
        os.kill(children_of(launched.pid)[1], signal.SIGKILL)
        wait_for(lambda: starts(run) == 2, launched)
        wait_for(lambda: step_of(run) > reached + 20, launched)
    finally:
        launched.send_signal(signal.SIGTERM)
        launched.wait(120)
    log = (run / "log.txt").read_text()
    assert "resuming at epoch" in log
    assert "stopped in epoch" in log  # the workers receive SIGTERM and save
    step = int(log.split("resuming at epoch")[1].split("step ")[1].split()[0])
    assert step >= reached - 1


def wait_for(condition, process: subprocess.Popen, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "torchrun has ended"
        assert time.monotonic() < end, "took too long"
        time.sleep(0.05)


def step_of(run: Path) -> int:
    files = state_files(run)
    return int(files[0].name.split("-")[1]) if files else 0


def starts(run: Path) -> int:
    try:
        return len(json.loads((run / "run.json").read_text())["starts"])
    except (OSError, ValueError):
        return 0


def predict_in_world(world, options: Predict) -> None:
    predict(options)


def train_and_predict(world, config: Config, folder: Path, options: Predict) -> None:
    train_run(config, folder, world)
    predict(options)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_predictions_of_two_processes_equal_those_of_a_single_process(photos, tmp_path, suffix):
    """Of a folder; and of several shards, on which the two processes trained as well."""
    run, missing = tmp_path / "run", str(tmp_path / "missing.png")
    if suffix == "csv":
        where, count = photos / "test", 6
        train_run(tiny_config(photos, epochs=1), run)
    else:
        shutil.copytree(photos, tmp_path / "set")
        where, count = write_shards(tmp_path / "set", 0.008), 30
        assert len(list(where.glob("*.tar"))) > 3
    one, two = (
        Predict(run=run, photos=(str(where), missing), out=tmp_path / f"{name}.{suffix}")
        for name in ("one", "two")
    )
    if suffix == "csv":
        in_two_processes(predict_in_world, two)
    else:
        in_two_processes(train_and_predict, tiny_config(where, epochs=1), run, two)
        assert len(pandas.read_csv(run / "metrics.csv")) == 1
    predict(one)
    first, second = (options.out.read_text() for options in (one, two))
    assert first == second
    assert len(first.splitlines()) == count + 1 + (suffix == "csv")
    assert not list(tmp_path.glob(".*part*"))
