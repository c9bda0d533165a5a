"""A command that is killed and given again loses nothing, and never mixes two runs."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import tiny_config, tiny_photos

from stacked_ram.config.yaml import dump_yaml, to_dict
from stacked_ram.runs import checkpoint
from stacked_ram.runs.checkpoint import state_files
from stacked_ram.runs.folder import RunFolder
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import resume_run, train_run, train_seeds
from stacked_ram.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
OUTPUTS = ("metrics.csv", "best.safetensors", "last.safetensors")


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


class Killed(BaseException):
    """In place of SIGKILL."""


def killed_at_removal(monkeypatch, number: int) -> None:
    """Stop this process at the removal of a file with this number."""
    unlink, removed = Path.unlink, []

    def until(path, missing_ok=False):
        if path.exists():
            removed.append(path)
            if len(removed) == number:
                raise Killed
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", until)


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory) -> Path:
    """A finished run of 3 epochs."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train_run(tiny_config(digits), folder)
    return folder


@pytest.mark.parametrize("number", [2, 4, 8])
def test_killed_inside_overwrite_no_old_state_is_taken_for_the_new_run(
    digits, finished, tmp_path, monkeypatch, number
):
    run, new = tmp_path / "run", tiny_config(digits, epochs=1, learning_rate=0.02)
    shutil.copytree(finished, run)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_at_removal(patched, number)
        train_run(new, run, overwrite=True)
    train_run(new, run, overwrite=True)
    expected = outputs(run)
    resume_run(run)
    assert outputs(run) == expected
    assert len(expected["metrics.csv"].splitlines()) == 2


def test_resuming_results_whose_states_are_gone_is_refused(digits, finished, tmp_path):
    for kept in OUTPUTS:
        run = tmp_path / kept / "run-seed0"
        shutil.copytree(finished, run)
        for path in [*state_files(run), *(run / name for name in OUTPUTS if name != kept)]:
            path.unlink()
        content = (run / kept).read_bytes()
        with pytest.raises(UserError, match=r"no training state.*--overwrite"):
            resume_run(run)
        with pytest.raises(UserError, match=r"no training state"):
            train_seeds(tiny_config(digits), tmp_path / kept / "run", [0])
        assert (run / kept).read_bytes() == content


def test_killed_before_the_first_epoch_is_saved_it_goes_on(digits, finished, tmp_path, monkeypatch):
    """The weights and the table stand already, and the state of the epoch does not."""
    save, done = Trainer.save, []

    def killed(self):
        done.append(self.epoch)
        if done[-1] == 1:
            raise Killed
        save(self)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Trainer, "save", killed)
        train_run(tiny_config(digits), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.csv").exists()
    resume_run(tmp_path / "run")
    assert outputs(tmp_path / "run") == outputs(finished)


def stopped_run(folder: Path, digits: Path, monkeypatch) -> Path:
    """A run that stopped in its third epoch, with two states."""
    with monkeypatch.context() as patched, pytest.raises(Killed):
        end_epoch, count = Trainer.end_epoch, []

        def killed(self, *some):
            count.append(0)
            if len(count) == 3:
                raise Killed
            end_epoch(self, *some)

        patched.setattr(Trainer, "end_epoch", killed)
        train_run(tiny_config(digits), folder)
    assert len(state_files(folder)) == 2
    return folder


def torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def narrower(state: dict) -> dict:
    """A state whose weights have other shapes."""
    model = {name: value[:1] for name, value in state["learner"]["model"].items() if value.ndim}
    return state | {"learner": state["learner"] | {"model": model}}


BROKEN = {
    "a pickle": lambda state: pickle.dumps(print),
    "empty": lambda state: b"",
    "a list": lambda state: torch_bytes([1, 2]),
    "no optimiser": lambda state: torch_bytes(
        state | {"learner": {"model": state["learner"]["model"]}}
    ),
    "no epoch": lambda state: torch_bytes({k: v for k, v in state.items() if k != "epoch"}),
    "no format": lambda state: torch_bytes({k: v for k, v in state.items() if k != "format"}),
    "other shapes": lambda state: torch_bytes(narrower(state)),
    "a text for a number": lambda state: torch_bytes(state | {"epoch": "one"}),
    "a position far out": lambda state: torch_bytes(
        state | {"loader": {"epoch": "x", "position": 10**9}}
    ),
}


def test_states_with_an_odd_content_are_named_and_the_one_before_them_is_used(
    digits, finished, tmp_path, monkeypatch, capsys
):
    run = stopped_run(tmp_path / "run", digits, monkeypatch)
    state = torch.load(state_files(run)[0], weights_only=True)
    odd = [run / "state-000000099-0123456789ab.pt"]
    odd[0].mkdir()
    for number, broken in enumerate(BROKEN.values(), 100):
        content = broken(state)
        odd.append(run / f"state-{number:09d}-{checkpoint.checksum(content)}.pt")
        odd[-1].write_bytes(content)
    resume_run(run)
    said = capsys.readouterr().err
    assert all(f"{path}: " in said for path in odd)
    assert sum(path.is_file() for path in state_files(run)) == 2  # those of the resumed run
    assert outputs(run) == outputs(finished)


def test_what_killed_writes_left_behind_is_swept_and_other_files_are_not(digits, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    left = [run / ".state-000000003-0123456789ab.pt.77.tmp", run / ".best.safetensors.7.tmp"]
    mine = [run / ".mine.7.tmp", run / ".state.tmp"]
    for path in (*left, *mine):
        path.write_bytes(b"half")
    folder = RunFolder(run)
    folder.start(tiny_config(digits))
    folder.close()
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in mine)


def test_an_odd_run_json_does_not_stop_a_resumed_run(digits, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(tiny_config(digits))
    for content in ("[1, 2]", '{"starts": 3}', '"text"', "[" * 100_000):
        (run.path / "run.json").write_text(content)
        run.close()
        run.go_on()
        assert '"resumed"' in (run.path / "run.json").read_text()
    run.close()


def test_a_file_in_place_of_the_folder_tensorboard_is_named_before_training(digits, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("mine")
    with pytest.raises(UserError, match=r"tensorboard: is a file"):
        train_run(tiny_config(digits, epochs=1), tmp_path / "run")
    assert (tmp_path / "run" / "tensorboard").read_text() == "mine"
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_a_killed_run_with_loader_workers_can_be_resumed_at_once(tmp_path):
    """The workers, which live some seconds longer, do not hold the run's lock."""
    data, run = tiny_photos(tmp_path / "data"), tmp_path / "run"
    (tmp_path / "config.yaml").write_text(
        dump_yaml(to_dict(tiny_config(data, epochs=9, workers=2)))
    )
    code = (
        "import sys, time\n"
        "from stacked_ram.config.yaml import load_config\n"
        "from stacked_ram.training.run import train_run\n"
        "from stacked_ram.training.trainer import Trainer\n"
        "Trainer.check_finite_sometimes = lambda self: time.sleep(60 * (self.epoch == 1))\n"
        "train_run(load_config(sys.argv[1]), sys.argv[2])\n"
    )
    # a process of its own: one that is forked off these tests hangs where they used OpenMP
    command = [sys.executable, "-c", code, str(tmp_path / "config.yaml"), str(run)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        end = time.monotonic() + 120
        while len(state_files(run)) < 2:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        process.kill()
    folder = RunFolder(run)
    folder.go_on()
    folder.close()
    os.killpg(process.pid, signal.SIGKILL)  # its workers
