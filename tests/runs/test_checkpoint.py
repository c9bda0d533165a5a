"""Weights contain everything needed to use them; damaged or foreign files are refused."""

from __future__ import annotations

import json
import pickle

import pytest
import safetensors.torch
import torch
from tiny import tiny_config

from stacked_ram.runs import checkpoint
from stacked_ram.runs.checkpoint import load_run, read_state, read_weights, save_state, state_files
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import train_run


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(tiny_config(digits, epochs=1, std=0.3, std_end=0.1), folder)
    return folder


def test_a_weights_file_is_sufficient(run, tmp_path):
    alone = tmp_path / "moved.safetensors"
    alone.write_bytes((run / "best.safetensors").read_bytes())
    loaded = load_run(alone, "cpu")
    assert loaded.classes == ("bar", "dot", "ring")
    assert loaded.config.model.std == 0.3
    assert loaded.model.levels[0].attention.std.item() == pytest.approx(
        0.1
    )  # as at the end of training
    assert not loaded.model.training
    pixels = torch.full((2, 1, 12, 12), 9, dtype=torch.uint8)
    again = load_run(run, "cpu").model
    ours, theirs = (model(model.photos(pixels)).logits_BTN for model in (loaded.model, again))
    assert torch.equal(ours, theirs)


def test_a_shared_backbone_is_stored_once_and_loads_again(tmp_path):
    shared = torch.nn.Linear(2, 2)
    model = torch.nn.ModuleDict({"a": shared, "b": shared, "c": torch.nn.Linear(2, 2)})
    kept = checkpoint.without_aliases(model.state_dict())
    assert sorted(kept) == ["a.bias", "a.weight", "c.bias", "c.weight"]
    wanted = {name: torch.rand_like(value) for name, value in kept.items()}
    assert checkpoint.load_weights(model, wanted) == ""
    assert torch.equal(model["b"].weight, wanted["a.weight"])
    assert "misses" in checkpoint.load_weights(model, {"a.bias": wanted["a.bias"]})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content[: len(content) // 2], "damaged or not"),
        (lambda content: content[:-9] + b"123456789", "does not match its digest"),
        (lambda content: safetensors.torch.save({"a": torch.zeros(1)}), "not written by this"),
        (lambda content: content.replace(b'\\"format\\": 1,', b'\\"format\\": 7,'), "format 7"),
    ],
    ids=["cut short", "changed bytes", "of another program", "of another format"],
)
def test_unusable_weights_are_refused_with_the_reason(run, tmp_path, change, says):
    path = tmp_path / "changed.safetensors"
    path.write_bytes(change((run / "best.safetensors").read_bytes()))
    with pytest.raises(UserError, match=says) as error:
        read_weights(path)
    assert str(path) in str(error.value)


def test_states_are_never_unpickled_without_restrictions(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    path = save_state(tmp_path, {"epoch": 0}, 1)
    content = pickle.dumps(Harm())
    path.unlink()
    (tmp_path / f"state-000000002-{checkpoint.checksum(content)}.pt").write_bytes(content)
    with pytest.raises(Exception):  # noqa: B017  torch's own error for a foreign file
        read_state(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_the_last_two_states_are_kept_and_another_format_is_refused(tmp_path, monkeypatch):
    for step in range(4):
        save_state(tmp_path, {"step": step}, step)
    assert [path.name[:15] for path in state_files(tmp_path)] == [
        "state-000000003", "state-000000002",
    ]  # fmt: skip
    assert read_state(tmp_path)["step"] == 3
    assert read_state(tmp_path / "empty") is None
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(UserError, match="format 1; this program reads format 2"):
        read_state(tmp_path)


def test_the_metadata_is_plain_json(run):
    with safetensors.safe_open(run / "best.safetensors", "pt") as file:
        about = json.loads(file.metadata()["stacked_ram"])
    assert about["classes"] == ["bar", "dot", "ring"]
    assert about["config"]["model"]["patch_size"] == 4
    assert about["mean"] == [0.2]
