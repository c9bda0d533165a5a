"""Models on the Hugging Face Hub, against a local stand-in of its API; and back into timm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
import yaml
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from tiny import tiny_config

import stacked_ram as ram
from stacked_ram.training.run import train_run


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = dict(retina="backbone", backbone="test_efficientnet", patch_size=16)
    train_run(tiny_config(photos, epochs=1, **model), folder)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A folder in place of the Hub, with the calls that the library makes."""
    home = tmp_path / "hub"

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, *, private, exist_ok):
            validate_repo_id(repo_id)
            if self.token == "expired":
                raise HfHubHTTPError(
                    "401: invalid token\nmore", response=SimpleNamespace(headers={}, request=None)
                )
            (home / repo_id).mkdir(parents=True, exist_ok=exist_ok)
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, home / repo_id, dirs_exist_ok=True)

    def hf_hub_download(repo_id, filename, *, revision):
        validate_repo_id(repo_id)
        path = home / repo_id / filename
        if not path.is_file() or revision not in (None, "main"):
            raise RepositoryNotFoundError(
                "404: no such repository", response=SimpleNamespace(headers={}, request=None)
            )
        return str(path)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return home


def test_a_model_goes_to_the_hub_and_comes_back(run, hub, photos):
    model = ram.load(run)
    model.evaluate(controls=True).save(run)
    photo = next((photos / "test").rglob("*.png"))
    address = model.push_to_hub("ann/birds", licence="cc-by-4.0", photos=[photo])
    assert address == "https://huggingface.co/ann/birds"
    again = ram.load("hf://ann/birds")
    assert again.classes == model.classes
    assert again.look(photo).beliefs.tolist() == model.look(photo).beliefs.tolist()
    assert ram.load("hf://ann/birds@main").classes == model.classes

    files = {str(path.relative_to(hub / "ann/birds")) for path in hub.rglob("*") if path.is_file()}
    assert files == {"config.json", "model.safetensors", "README.md", "pictures/0.png"}
    config = json.loads((hub / "ann/birds/config.json").read_text())
    assert config["classes"] == list(model.classes)
    assert config["model"]["backbone"] == "test_efficientnet"


def test_the_card_has_the_figures_beside_the_controls(run, hub):
    model = ram.load(run)
    report = model.evaluate(controls=True)
    report.save(run)
    model.push_to_hub("ann/birds", licence="mit")
    card = (hub / "ann/birds/README.md").read_text()
    facts = yaml.safe_load(card.split("---")[1])
    assert facts["license"] == "mit"
    assert facts["library_name"] == "stacked_ram"
    metric = facts["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == pytest.approx(report.accuracy, abs=1e-4)
    assert f"| {report.accuracy:.1%} |" in card
    assert f"looking at the centre | {report.controls['centre']['accuracy']:.1%} |" in card
    for part in (
        "## Data",
        "bar, dot, ring",
        "## Limits",
        "## Licence",
        'ram.load("hf://ann/birds")',
    ):
        assert part in card


def test_what_was_not_measured_is_not_in_the_card(photos, hub, tmp_path):
    train_run(tiny_config(photos, epochs=1), tmp_path / "run")
    ram.load(tmp_path / "run").push_to_hub("ann/new")
    card = (hub / "ann/new/README.md").read_text()
    assert "Not measured" in card
    assert "licence of the weights was not stated" in card
    assert "model-index" not in card


def test_what_the_hub_refuses_is_one_line(run, hub):
    model = ram.load(run)
    with pytest.raises(ram.UserError, match="`no name/at/all` is not a name such as user/name"):
        model.push_to_hub("no name/at/all")
    with pytest.raises(ram.RunFailed, match=r"ann/birds: 401: invalid token$"):
        model.push_to_hub("ann/birds", token="expired")
    with pytest.raises(ram.UserError, match=r"hf://ann/nothing: cannot be fetched \(404: no such"):
        ram.load("hf://ann/nothing")


def test_the_trained_backbone_goes_back_into_timm(run, tmp_path):
    model = ram.load(run)
    path = model.save_backbone(tmp_path / "backbone.safetensors")
    network = timm.create_model("test_efficientnet", num_classes=0, checkpoint_path=str(path))
    images = torch.rand(2, 3, 32, 32)
    expected = model.net.backbone(images)
    torch.testing.assert_close(network.eval()(images), expected)
    with pytest.raises(ram.UserError, match=r"must end in \.safetensors"):
        model.save_backbone(tmp_path / "backbone.pt")


def test_a_model_without_a_timm_network_says_so(photos, tmp_path):
    train_run(tiny_config(photos, epochs=1), tmp_path / "run")
    with pytest.raises(ram.UserError, match="no whole timm network"):
        ram.load(tmp_path / "run").save_backbone(tmp_path / "a.safetensors")
