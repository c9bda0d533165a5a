"""The guarantees of a run: the same seed gives the same run, and so does resuming it."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny import tiny_config, tiny_digits

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import replace_fields
from stacked_ram.runs import checkpoint
from stacked_ram.runs.checkpoint import load_run, read_weights, state_files
from stacked_ram.runs.folder import RunFolder
from stacked_ram.runtime.errors import RunFailed, UserError
from stacked_ram.runtime.signals import Stopped
from stacked_ram.training import estimators
from stacked_ram.training import trainer as engine
from stacked_ram.training.callbacks import Callback
from stacked_ram.training.profiling import Profiler
from stacked_ram.training.run import resume_run, train_run
from stacked_ram.training.step import TrainStep
from stacked_ram.training.trackers import TensorBoard
from stacked_ram.training.trainer import Trainer
from stacked_ram.viz.training_pictures import tracking_callbacks

# Everything that has a state: momentum, average of the weights, dropout, groups of batches, a
# schedule that remembers, and patience.
STATEFUL = {
    "ema_decay": 0.9, "dropout": 0.2, "accumulation_steps": 2, "schedule": "plateau", "patience": 5,
    "random_glimpses": 0.5, "std_end": 0.05, "save_every": 0.0, "metric": "loss",
}  # fmt: skip
ESTIMATE = estimators.losses
OUTPUTS = ("metrics.csv", "best.safetensors", "last.safetensors")


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


@pytest.fixture(scope="module")
def whole(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict]:
    """An uninterrupted run: its config and its outputs."""
    config = tiny_config(digits, **STATEFUL)
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_run(config, folder)
    return config, outputs(folder)


def test_the_same_seed_gives_the_same_run_and_another_seed_does_not(whole, tmp_path):
    config, expected = whole
    train_run(config, tmp_path / "again")
    assert outputs(tmp_path / "again") == expected
    other = tiny_config(Path(config.data.dataset), **STATEFUL, seed=1)
    train_run(other, tmp_path / "other")
    assert outputs(tmp_path / "other")["metrics.csv"] != expected["metrics.csv"]


def slow_run(config: Config, folder: Path) -> None:
    """Train or resume, slowly enough to be killed on the way (in a separate process)."""
    torch.set_num_threads(1)
    learn = TrainStep.__call__

    def slowly(*arguments, **options):
        time.sleep(0.03)
        return learn(*arguments, **options)

    TrainStep.__call__ = slowly
    if (folder / "config.yaml").is_file():
        resume_run(folder, config)
    else:
        train_run(config, folder)


def test_killed_at_random_moments_and_resumed_it_gives_the_same_bits(whole, tmp_path):
    config, expected = whole
    folder = tmp_path / "killed"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "timm", "stacked_ram.training.trainer"])
    rng = random.Random(0)
    kills = 0
    for _ in range(40):
        process = context.Process(target=slow_run, args=(config, folder))
        process.start()
        began = time.monotonic()
        # Kill only after the first saved state, so that every attempt makes progress.
        had = len(state_files(folder))
        while process.is_alive() and len(state_files(folder)) <= min(had, 1):
            time.sleep(0.005)
            assert time.monotonic() - began < 120
        if kills < 4:
            process.join(rng.uniform(0.0, 0.25))
        else:
            process.join()
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
            continue
        assert process.exitcode == 0
        break
    assert kills >= 3
    assert outputs(folder) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_state_and_says_how_to_resume(
    whole, tmp_path, monkeypatch, capsys, number
):
    config, expected = whole
    learn = TrainStep.__call__

    def interrupted(self, *arguments, **options):
        if self.step == 8:
            os.kill(os.getpid(), number)
        return learn(self, *arguments, **options)

    monkeypatch.setattr(TrainStep, "__call__", interrupted)
    with pytest.raises(Stopped) as stopped:
        train_run(config, tmp_path / "run")
    assert stopped.value.code == 128 + number
    assert f"--resume {tmp_path / 'run'}" in capsys.readouterr().out
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    monkeypatch.setattr(TrainStep, "__call__", learn)
    resume_run(tmp_path / "run", config)
    assert outputs(tmp_path / "run") == expected


@pytest.fixture
def stopped_run(whole, tmp_path, monkeypatch) -> Path:
    """A run that stopped inside its second epoch, with two training states."""
    config, _ = whole
    learn = TrainStep.__call__

    def failing(self, *arguments, **options):
        if self.step == 9:
            raise RuntimeError("the power is gone")
        return learn(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "__call__", failing)
        with pytest.raises(RuntimeError):
            train_run(config, tmp_path / "run")
    assert len(state_files(tmp_path / "run")) == 2
    return tmp_path / "run"


def test_photos_per_second_count_only_the_resumed_part(whole, stopped_run, monkeypatch):
    config, _ = whole
    train_epoch, counts = Trainer.train_epoch, []

    def counted(self):
        before = self.train_step.step
        photos = train_epoch(self)
        counts.append((photos, self.train_step.step - before, self.photos_per_epoch))
        return photos

    monkeypatch.setattr(Trainer, "train_epoch", counted)
    resume_run(stopped_run, config)
    for photos, steps, whole_epoch in counts:
        assert photos == min(steps * config.training.batch_size, whole_epoch)
    assert counts[0][0] < counts[1][0] == counts[1][2]


@pytest.mark.parametrize("damage", ["cut short", "one byte", "empty"])
def test_a_damaged_state_is_reported_and_the_previous_state_is_used(
    whole, stopped_run, damage, capsys
):
    config, expected = whole
    newest = state_files(stopped_run)[0]
    content = bytearray(newest.read_bytes())
    if damage == "cut short":
        content = content[: len(content) // 2]
    elif damage == "one byte":
        content[len(content) // 2] ^= 255
    else:
        content.clear()
    newest.write_bytes(content)
    resume_run(stopped_run, config)
    assert newest.name in capsys.readouterr().err
    assert outputs(stopped_run) == expected


def test_when_every_state_is_damaged_nothing_is_trained(whole, stopped_run):
    for path in state_files(stopped_run):
        path.write_bytes(b"torn")
    with pytest.raises(UserError, match="every training state is damaged"):
        resume_run(stopped_run, whole[0])


def test_a_full_disk_ends_the_run_with_one_line_and_damages_nothing(whole, tmp_path, monkeypatch):
    config, expected = whole
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailed, match=r"No space left on device.*--resume") as failed:
        train_run(config, tmp_path / "run")
    assert failed.value.exit_code == 1
    assert not list((tmp_path / "run").glob(".*.tmp"))
    resume_run(tmp_path / "run", config)
    assert outputs(tmp_path / "run") == expected


def test_a_run_folder_that_is_moved_away_ends_the_run_with_one_line(digits, tmp_path, capfd):
    class MovesIt(Callback):
        def on_epoch_end(self, trainer, row):
            if trainer.run.path.exists():
                trainer.run.path.rename(tmp_path / "elsewhere")

    config = tiny_config(digits, pictures_every=1)
    with pytest.raises(RunFailed, match=r"run: was moved or removed while the training ran; put"):
        Trainer(config, tmp_path / "run", callbacks=[MovesIt(), TensorBoard()]).fit()
    assert "Traceback" not in capfd.readouterr().err  # nor of TensorBoard's own thread


def test_a_run_folder_that_is_moved_away_while_a_state_is_saved(digits, tmp_path, monkeypatch):
    write = checkpoint.write_atomically

    def moved(path: Path, content: bytes) -> None:
        write(path, content)
        if path.suffix == ".pt" and "state-000000000" not in path.name:
            path.parent.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(checkpoint, "write_atomically", moved)
    with pytest.raises(RunFailed, match=r"run: was moved or removed while the training ran"):
        train_run(tiny_config(digits), tmp_path / "run")


def scripted(monkeypatch, values: list[float]) -> None:
    """Replace validation: return these accuracies, epoch by epoch."""
    left = iter(values)
    monkeypatch.setattr(engine, "validate", lambda *_: {"accuracy": next(left), "loss": 1.0})


def test_early_stopping_keeps_the_best_and_survives_a_restart(digits, tmp_path, monkeypatch):
    config = tiny_config(digits, epochs=9, patience=2)
    scripted(monkeypatch, [0.5, 0.7, 0.6])
    with pytest.raises(StopIteration):
        train_run(config, tmp_path / "run")
    scripted(monkeypatch, [0.7, 0.9])
    best = resume_run(tmp_path / "run", config)
    assert best["epoch"] == 2
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 1 + 4
    _, metadata = read_weights(tmp_path / "run" / "best.safetensors")
    assert metadata.epoch == 2
    assert "stopped early" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_an_epoch_whose_metric_is_not_a_number_is_never_the_best(
    digits, tmp_path, monkeypatch, metric
):
    values, validate = [math.nan, 0.5, math.nan], engine.validate
    monkeypatch.setattr(engine, "validate", lambda *some: validate(*some) | {metric: values.pop(0)})
    row = train_run(tiny_config(digits, metric=metric), tmp_path / "run")
    _, metadata = read_weights(tmp_path / "run" / "best.safetensors")
    assert row["epoch"] == metadata.epoch == 2 and row[f"valid_{metric}"] == 0.5


def poison(monkeypatch, step: int) -> None:
    """Make a part of the loss infinite at this step."""

    estimate = ESTIMATE

    def poisoned(*arguments, **options):
        for losses in estimate(*arguments, **options):
            if len(steps) == step:
                losses.total = losses.total * math.inf
                losses.parts["baseline"] = losses.parts["baseline"] * math.nan
            steps.append(step)
            yield losses

    steps: list[int] = []
    monkeypatch.setattr(estimators, "losses", poisoned)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(digits, tmp_path, monkeypatch):
    poison(monkeypatch, step=7)
    with pytest.raises(
        RunFailed, match=r"step 7: baseline.*learning rate.*photos train.*and 4 more"
    ):
        train_run(tiny_config(digits), tmp_path / "run")
    # No state with infinite values was saved, so the run resumes from before.
    poison(monkeypatch, step=99)
    resume_run(tmp_path / "run", tiny_config(digits))
    weights, _ = read_weights(tmp_path / "run" / "last.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_a_batch_that_is_not_finite_is_skipped_and_counted_on_request(
    digits, tmp_path, monkeypatch, precision
):
    poison(monkeypatch, step=7)
    config = tiny_config(digits, not_finite="skip", precision=precision)
    train_run(config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("skipped")
    assert [line.split(",")[column] for line in lines[1:]] == ["0", "1", "0"]
    weights, _ = read_weights(tmp_path / "run" / "last.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_with_accumulate_the_whole_group_is_skipped(digits, tmp_path, monkeypatch):
    """6 batches in groups of 4 and 2; the third batch makes the first group non-finite."""
    settings = dict(
        accumulation_steps=4, epochs=1, optimizer="sgd", schedule="constant", ema_decay=None
    )
    config = tiny_config(digits, not_finite="skip", **settings)
    trainer = Trainer(config, RunFolder(tmp_path))
    poison(monkeypatch, step=2)
    before = {name: value.clone() for name, value in trainer.train_step.model.state_dict().items()}
    unchanged = []
    for number, batch in enumerate(trainer.loader):
        last = number in (3, 5)
        trainer.train_step(batch, accumulation_steps=4 if number < 4 else 2, is_last=last)
        after = trainer.train_step.model.state_dict()
        unchanged.append(all(torch.equal(after[name], value) for name, value in before.items()))
    assert unchanged == [True] * 5 + [False]
    assert trainer.train_step.skipped == 4


def test_accumulated_gradients_equal_those_of_the_joined_batches(digits, tmp_path):
    config = tiny_config(digits, batch_size=16, first_location="centre", num_glimpses=1)
    trainer = Trainer(config, RunFolder(tmp_path))
    batch = next(iter(trainer.loader))
    train_step = trainer.train_step
    gradients = []
    for parts in (1, 2):
        train_step.optimizer.zero_grad()
        for index in torch.arange(16).chunk(parts):
            part = batch._each(lambda value, index=index: value[index])
            train_step(part, accumulation_steps=parts, is_last=False)
        gradients.append(
            {
                n: p.grad.clone()
                for n, p in train_step.model.named_parameters()
                if p.grad is not None
            }
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, whole_batch in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], whole_batch, msg=name)


def test_a_last_batch_of_a_single_photo_is_skipped_with_batch_norm(tmp_path):
    data = tiny_digits(tmp_path / "data", counts=(17, 3, 3))
    config = tiny_config(data, retina="conv", epochs=1)
    trainer = Trainer(config, RunFolder(tmp_path / "run"))
    assert sorted(len(batch) for batch in trainer.loader) == [8, 8]
    train_run(config, tmp_path / "trained")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains(digits, tmp_path, precision):
    row = train_run(tiny_config(digits, precision=precision, epochs=2), tmp_path / "run")
    assert math.isfinite(row["train_total"])


def test_it_learns_and_the_saved_weights_are_those_evaluated(digits, tmp_path):
    config = tiny_config(digits, epochs=12, ema_decay=0.8, first_location="centre")
    row = train_run(config, tmp_path / "run")
    assert row["valid_accuracy"] > 0.9
    loaded = load_run(tmp_path / "run", "cpu")
    assert loaded.metadata.metrics["valid_accuracy"] == row["valid_accuracy"]
    assert loaded.classes == ("bar", "dot", "ring")


def test_pictures_of_scan_paths_go_to_tensorboard_and_change_nothing(photos, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_config(photos, epochs=2)
    train_run(config, tmp_path / "without")
    pictured = replace_fields(config, {"pictures_every": 1})
    train_run(pictured, tmp_path / "with", callbacks=tracking_callbacks())
    tables = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("with", "without")]
    assert tables[0] == tables[1]
    events = EventAccumulator(str(tmp_path / "with" / "tensorboard")).Reload()
    assert [image.step for image in events.Images("scan paths")] == [1, 2]
    assert [value.step for value in events.Scalars("valid/accuracy")] == [1, 2]


def test_a_profile_of_the_first_batches(digits, tmp_path):
    config = tiny_config(digits, batch_size=4, epochs=1)
    train_run(config, tmp_path / "run", callbacks=[Profiler()])
    assert list((tmp_path / "run" / "tensorboard").glob("*.pt.trace.json"))


def test_without_a_validation_split_the_last_epoch_is_kept(digits, tmp_path):
    train_run(tiny_config(digits, train_on="train+valid"), tmp_path / "run")
    _, metadata = read_weights(tmp_path / "run" / "best.safetensors")
    assert metadata.epoch == 3


def test_a_run_keeps_the_statistics_of_its_pretrained_weights(photos: Path, tmp_path: Path):
    """From the first step on, and after validations."""
    network = timm.create_model("test_efficientnet")
    weights = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), weights)
    fields = dict(retina="backbone", backbone="test_efficientnet", patch_size=16, epochs=2)
    train_run(tiny_config(photos, **fields, weights=str(weights)), tmp_path / "run")
    learned, _ = read_weights(tmp_path / "run" / "last.safetensors")
    [stem] = [name for name in learned if name.endswith(".conv_stem.weight")]
    prefix = stem.removesuffix("conv_stem.weight")
    assert not torch.equal(learned[stem], network.conv_stem.weight)
    kept = {name: value for name, value in network.state_dict().items() if "running" in name}
    assert kept
    for name, value in kept.items():
        torch.testing.assert_close(learned[prefix + name], value, rtol=0, atol=0, msg=name)


def test_a_batch_with_one_value_a_channel_is_refused_by_name(digits, tmp_path):
    config = tiny_config(digits, batch_size=1, glance=(8, 8), regions=(1, 1))
    with pytest.raises(UserError, match=r"batch_size: batch norm has one value a channel"):
        train_run(config, tmp_path / "run")
