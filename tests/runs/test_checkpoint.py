"""Weights contain everything needed to use them; damaged or foreign files are refused."""

from __future__ import annotations

import json
import math
import pickle
import random
import resource

import pytest
import safetensors.torch
import torch
from tiny import tiny_config

from stacked_ram.runs import checkpoint
from stacked_ram.runs.checkpoint import load_run, read_weights, restore, save_state, state_files
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


def sealed_with(content: bytes, change: dict) -> bytes:
    """The weights with this in their metadata, as a program would write them."""
    tensors = safetensors.torch.load(content)
    length = int.from_bytes(content[:8], "little")
    card = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["stacked_ram"])
    card |= change
    card["seal"] = checkpoint.seal(card)
    return safetensors.torch.save(tensors, {"stacked_ram": json.dumps(card)})


def test_no_flipped_bit_of_the_header_changes_the_metadata(run, tmp_path):
    content = (run / "best.safetensors").read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    path, rng = tmp_path / "flipped.safetensors", random.Random(0)
    _, expected = read_weights(run / "best.safetensors")
    refused = 0
    for _ in range(300):
        flipped = bytearray(content)
        flipped[rng.randrange(length)] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            assert read_weights(path)[1] == expected
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 280


CARDS = {
    "no object": "[1]", "no JSON": "{", "empty": "{}", "deep": "[" * 100_000,
    "classes": '{"format": 1, "classes": [1]}',
}  # fmt: skip


@pytest.mark.parametrize("name", CARDS)
def test_an_odd_card_is_refused_by_name(run, tmp_path, name):
    tensors = safetensors.torch.load_file(run / "best.safetensors")
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file(tensors, path, {"stacked_ram": CARDS[name]})
    with pytest.raises(UserError, match=r"odd.safetensors: damaged"):
        read_weights(path)


def test_weights_of_an_earlier_version_have_no_seal_and_are_read(run, tmp_path):
    tensors = safetensors.torch.load_file(run / "best.safetensors")
    with safetensors.safe_open(run / "best.safetensors", "pt") as file:
        card = json.loads(file.metadata()["stacked_ram"])
    del card["seal"]
    card = {"stacked_ram": json.dumps(card)}
    safetensors.torch.save_file(tensors, tmp_path / "old.safetensors", card)
    old, new = read_weights(tmp_path / "old.safetensors"), read_weights(run / "best.safetensors")
    assert old[1] == new[1] and old[0].keys() == new[0].keys()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content[: len(content) // 2], "damaged or not"),
        (lambda content: content[:-9] + b"123456789", "does not match its digest"),
        (lambda content: safetensors.torch.save({"a": torch.zeros(1)}), "not written by this"),
        (lambda content: sealed_with(content, {"format": 7}), "format 7"),
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
    with pytest.raises(UserError, match="every training state is damaged"):
        restore(tmp_path, print)
    assert not (tmp_path / "harm").exists()


def test_the_last_two_states_are_kept_and_another_format_is_refused(tmp_path, monkeypatch):
    for step in range(4):
        save_state(tmp_path, {"step": step}, step)
    assert [path.name[:15] for path in state_files(tmp_path)] == [
        "state-000000003", "state-000000002",
    ]  # fmt: skip
    taken = []
    assert restore(tmp_path, taken.append) and taken[0]["step"] == 3
    assert not restore(tmp_path / "empty", taken.append)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(UserError, match="format 1; this program reads format 2"):
        restore(tmp_path, taken.append)


def test_the_metadata_is_plain_json(run):
    with safetensors.safe_open(run / "best.safetensors", "pt") as file:
        about = json.loads(file.metadata()["stacked_ram"])
    assert about["classes"] == ["bar", "dot", "ring"]
    assert about["config"]["model"]["patch_size"] == 4
    assert about["mean"] == [0.2]


HUGE = [
    {"core_size": 10**9}, {"num_glimpses": 10**9}, {"patch_size": 10**9}, {"what_size": 10**6},
    {"num_patches": 10**9}, {"regions": (10**6, 10**6), "policy": "categorical"},
]  # fmt: skip


@pytest.mark.parametrize("fields", HUGE, ids=str)
def test_weights_whose_config_asks_for_huge_sizes_are_refused_without_the_memory(
    run, tmp_path, fields
):
    content = (run / "best.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    card = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["stacked_ram"])
    card["config"]["model"] |= fields
    (tmp_path / "huge.safetensors").write_bytes(sealed_with(content, {"config": card["config"]}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"huge\.safetensors"):
        load_run(tmp_path / "huge.safetensors", "cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_weights_that_are_not_finite_are_refused(run, tmp_path):
    tensors, metadata = read_weights(run / "best.safetensors")
    tensors["classifier.bias"][1] = math.nan
    checkpoint.save_weights(tmp_path / "nan.safetensors", tensors, metadata)
    with pytest.raises(UserError, match=r"nan\.safetensors: its weights are not finite"):
        load_run(tmp_path / "nan.safetensors", "cpu")
