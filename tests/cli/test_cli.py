"""The command line starts quickly, takes defaults from the YAML, and suggests the nearest name."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tiny import tiny_config

from stacked_ram.cli import main as cli
from stacked_ram.runs.folder import save_config

HEAVY = ("torch", "timm", "pandas", "sklearn", "matplotlib", "optuna", "numpy")


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS)])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom stacked_ram.cli.main import main\n"
        f"try:\n    main({[*command, '--help']!r})\nexcept SystemExit as end:\n"
        f"    assert end.code == 0\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "main.py" in done.stdout.splitlines()[0]


def test_flags_start_from_the_yaml(tmp_path, digits, capsys):
    save_config(tiny_config(digits, epochs=7), tmp_path / "a.yaml")
    options = cli.parse("train", [str(tmp_path / "a.yaml"), "--num-glimpses", "5"])
    assert options.fields.training.epochs == 7
    assert options.fields.model.num_glimpses == 5
    assert options.fields.model.patch_size == 4
    options = cli.parse("tune", ["--epochs", "2", str(tmp_path / "a.yaml")])
    assert (options.fields.training.epochs, options.fields.training.batch_size) == (2, 8)
    with pytest.raises(SystemExit):
        cli.parse("train", [str(tmp_path / "a.yaml"), "--help"])
    assert "(default: 7)" in capsys.readouterr().out


def test_an_unknown_flag_names_the_nearest(tmp_path, digits, capsys):
    save_config(tiny_config(digits), tmp_path / "a.yaml")
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(tmp_path / "a.yaml"), "--num-glimses", "5"])
    assert end.value.code == 2
    assert "--num-glimpses" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "did you mean `train`"),
        (["train"], "train what"),
        (["train", "nowhere.yaml"], "nowhere.yaml: no such file or preset"),
        (["train", "--resume", "nowhere"], "nowhere: is not a run"),
        (["train", "A", "--num-glimpses", "0"], "num_glimpses: 0 is below 1"),
        (["train", "A", "--dataset", "nowhere"], "no prepared data set at nowhere"),
        (["train", "A", "--optimizer", "adamwww"], "did you mean `adamw`"),
        (["train", "A", "--device", "tpu"], "device: `tpu` is not"),
        (["test", "nowhere"], "nowhere: no such run"),
        (["info", "nowhere"], "nowhere"),
        (["predict", "nowhere", "a.jpg"], "nowhere: no such run"),
        (["export", "nowhere"], "nowhere: no such run"),
        (["tune", "A", "--search", "stdd=0:1"], "did you mean `std`"),
        (["tune", "A", "--search", "std=0.1:0.2", "std=0.3:0.4"], "std is given twice"),
        (["tune", "A", "--search", "num_glimpses=1.5:3"], "num_glimpses takes whole numbers"),
        (["tune", "A", "--out", "a.yaml/study"], "a.yaml: is a file"),
        (["train", "A", "--out", "a.yaml/run"], "a.yaml: is a file"),
        (["predict", "R", "a.jpg", "--top", "0"], "top: 0 is below 1"),
        (["predict", "R", "a.jpg", "--stop-at", "3"], "stop_at: 3.0 is not in 0 to 1"),
        (["predict", "R", "a.jpg", "--batch-size", "0"], "batch_size: 0 is below 1"),
        (["predict", "R", "a.jpg", "--out", "a.yaml/a.csv"], "a.yaml: is a file"),
        (["export", "R", "--batch-size", "0"], "--batch-size: 0 is below 1"),
        (["export", "R", "--size", "0", "9"], "--size: (0, 9) is not above 0"),
        (["info", "A", "--size", "9", "0"], "--size: (9, 0) is not above 0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments, says, tmp_path, digits, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    save_config(tiny_config(digits), tmp_path / "a.yaml")
    code = cli.main(["a.yaml" if word == "A" else word for word in arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert says in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.glob("results/*/config.yaml"))
