"""Models on the Hugging Face Hub, by the conventions of its PyTorchModelHubMixin.

    config.json          the model's configuration, classes and normalisation
    model.safetensors    the weights, as a run keeps them: `ram.load` needs nothing else
    README.md            the model card
    pictures/            of the card

The package huggingface_hub comes with timm.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from stacked_ram.config.yaml import to_dict
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.errors import RunFailed, UserError
from stacked_ram.runtime.version import __version__

SCHEME = "hf://"
WEIGHTS = "model.safetensors"


def write_model_folder(loaded: LoadedRun, folder: Path, card: str) -> None:
    """Write what a repository of the Hub holds into a folder. card: the text of README.md."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(loaded.path, folder / WEIGHTS)
    metadata = loaded.metadata
    config = {
        "library_name": "stacked_ram",
        "stacked_ram_version": __version__,
        "classes": list(metadata.classes),
        "channels": metadata.channels,
        "mean": list(metadata.mean),
        "std": list(metadata.std),
        **(
            {"multi_label": True, "thresholds": list(metadata.thresholds)}
            if metadata.multi_label
            else {}
        ),
        **to_dict(metadata.config),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


def upload(folder: Path, repo: str, *, private: bool, token: str | None, message: str) -> str:
    """Upload a folder to a repository of the Hub, which is made if needed; return its address.

    Raises UserError if the name is not valid, RunFailed if the Hub refuses or cannot be reached.
    """
    # late: only those who use the Hub wait for it
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    api = HfApi(token=token)
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message)
    except HFValidationError as error:
        raise UserError(
            f"push_to_hub: `{repo}` is not a name such as user/name ({error})"
        ) from None
    except Exception as error:  # of the network, of the Hub, of the token: many kinds
        raise RunFailed(f"push_to_hub: {repo}: {why(error)}") from None
    return str(made)


def download(address: str) -> Path:
    """Fetch the weights of `hf://user/name` or `hf://user/name@revision`; return their file, which
    stays in the cache of huggingface_hub.

    Raises UserError if there is no such model or it cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    repo, _, revision = address.removeprefix(SCHEME).partition("@")
    try:
        return Path(hf_hub_download(repo, WEIGHTS, revision=revision or None))
    except Exception as error:  # of the network, of the Hub, of the name: many kinds
        raise UserError(
            f"{address}: cannot be fetched ({why(error)}); give {SCHEME}user/name of a model that"
            " push_to_hub wrote"
        ) from None


def why(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
