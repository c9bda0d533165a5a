from __future__ import annotations

import json
import shutil

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from tiny import tiny_config, tiny_digits, tiny_photos

from stacked_ram.cli.test import Test as Options
from stacked_ram.cli.test import test as run_test
from stacked_ram.config.yaml import replace_fields
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.loader import make_loader
from stacked_ram.evaluation import evaluate as room
from stacked_ram.evaluation.predictions import predict_split
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import train_run


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(tiny_config(photos, epochs=4), folder)
    return folder


def test_the_files_of_a_test_agree_with_each_other(run, photos, capsys):
    run_test(Options(runs=(run,), controls=True, mc_samples=3))
    report = json.loads((run / "test.json").read_text())
    table = pandas.read_csv(run / "test_photos.csv")
    assert len(table) == report["photos"] == 6
    assert report["accuracy"] == pytest.approx((table["class"] == table["predicted"]).mean())
    assert report["accuracy_after"][-1] == report["accuracy"]
    low, high = report["interval_95"]
    assert low <= report["accuracy"] <= high
    counts = pandas.read_csv(run / "test_confusion.csv", index_col="class")
    assert counts.to_numpy().sum() == 6
    assert np.trace(counts.to_numpy()) == round(report["accuracy"] * 6)
    per_class = pandas.read_csv(run / "test_per_class.csv", index_col="class")
    assert per_class.loc["mean over classes", "f1"] == pytest.approx(report["mean_f1"], abs=1e-4)
    assert (run / "test_confusion.png").read_bytes().startswith(b"\x89PNG")
    assert set(report["controls"]) == {"centre", "random", "first glimpse only", "box given"}
    assert set(report["controls"]["box given"]["hit_rate"]) == {1.0}
    assert report["controls"]["first glimpse only"]["accuracy_after"] == [
        report["accuracy_after"][0]
    ]
    assert report["controls"]["centre"]["last_location"]["spread"] == [0, 0]
    assert "mean belief of 3 sampled scan paths" in report["mc_samples"]["pass"]
    assert report["photos_with_box"] == 6
    assert report["gmacs"]["total"] > report["gmacs"]["per_glimpse"] > 0
    shown = capsys.readouterr().out
    assert "one deterministic pass" in shown
    assert "control: centre" in shown


def test_an_object_is_found_if_any_of_its_class_is_in_a_patch(run, photos, tmp_path):
    """One object lies in a corner, another at the centre, where the control looks."""
    data = tmp_path / "two_objects"
    shutil.copytree(photos, data)
    manifest = pandas.read_csv(data / "manifest.csv")
    corner = manifest.assign(box_left=0, box_top=0, box_right=1, box_bottom=1)
    middle = manifest.assign(
        box_left=manifest["width"] / 2 - 1, box_right=manifest["width"] / 2 + 1,
        box_top=manifest["height"] / 2 - 1, box_bottom=manifest["height"] / 2 + 1,
    )  # fmt: skip
    corner.to_csv(data / "manifest.csv", index=False)
    columns = ["path", "class", "box_left", "box_top", "box_right", "box_bottom"]
    for objects, found in (([corner, middle], 1), ([corner], 0)):
        pandas.concat(objects)[columns].to_csv(data / "boxes.csv", index=False)
        run_test(Options(runs=(run,), dataset=data, out=tmp_path / "out", controls=True))
        centre = json.loads((tmp_path / "out" / "test.json").read_text())["controls"]["centre"]
        assert centre["hit_rate"][-1] == centre["object_found"][-1] == found


def test_uneven_classes_put_the_balanced_accuracy_first(tmp_path, capsys):
    """12 photos of one class against 1 of each other in training, and likewise in test."""
    data = tiny_photos(tmp_path / "data", counts=(36, 6, 36))
    table = pandas.read_csv(data / "manifest.csv")
    kept = table.groupby(["split", "class"]).cumcount()
    first = table["class"].iloc[0]
    uneven = table[(table["class"] == first) | (kept < 2) | (table["split"] == "valid")]
    uneven.to_csv(data / "manifest.csv", index=False)
    folder = tmp_path / "run"
    train_run(tiny_config(data, epochs=1), folder)
    assert "warning: classes are uneven: 12 photos of" in (folder / "log.txt").read_text()
    capsys.readouterr()
    run_test(Options(runs=(folder,)))
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert lines.index("balanced") < lines.index("accuracy")
    report = json.loads((folder / "test.json").read_text())
    answers = pandas.read_csv(folder / "test_photos.csv")
    recalls = (answers["class"] == answers["predicted"]).groupby(answers["class"]).mean()
    assert report["balanced_accuracy"] == pytest.approx(recalls.mean())
    assert f"always answering {first!r} would be right for 75.0%" in " ".join(report["meaning"])
    other = tmp_path / "balanced"
    train_run(tiny_config(data, epochs=1, balanced_sampler=True), other)
    assert "classes are uneven" not in (other / "log.txt").read_text()


def test_figures_are_reproducible_and_do_not_depend_on_the_batches(run, tmp_path):
    reports = []
    for name, batch_size in (("a", 2), ("b", 6), ("c", 6)):
        run_test(Options(runs=(run,), batch_size=batch_size, out=tmp_path / name, controls=True))
        report = json.loads((tmp_path / name / "test.json").read_text())
        reports.append({key: report[key] for key in ("accuracy", "loss", "hit_rate", "controls")})
    assert reports[1] == reports[2]
    assert reports[0]["accuracy"] == reports[1]["accuracy"]
    assert reports[0]["loss"] == pytest.approx(reports[1]["loss"], abs=1e-5)


def test_the_whole_test_split_is_used_even_after_a_quick_training(photos, tmp_path):
    train_run(tiny_config(photos, epochs=1, limit_photos=3), tmp_path / "run")
    run_test(Options(runs=(tmp_path / "run",)))
    assert json.loads((tmp_path / "run" / "test.json").read_text())["photos"] == 6
    run_test(Options(runs=(tmp_path / "run",), split="valid", limit_photos=3))
    assert json.loads((tmp_path / "run" / "valid.json").read_text())["photos"] == 3


@pytest.mark.parametrize("learned_stop", [False, True])
def test_early_exit_is_chosen_on_valid_and_reported_on_test(photos, tmp_path, learned_stop):
    config = tiny_config(photos, epochs=2, num_glimpses=4, learned_stop=learned_stop)
    train_run(config, tmp_path / "run")
    run_test(Options(runs=(tmp_path / "run",), exit_glimpses=2.5))
    found = json.loads((tmp_path / "run" / "test.json").read_text())["early_exit"]
    assert found["by"] == ("stopping head" if learned_stop else "belief")
    assert 1 <= found["mean_glimpses"] <= 4
    curve = pandas.read_csv(tmp_path / "run" / "test_early_exit.csv")
    assert curve["mean_glimpses"].iloc[[0, -1]].tolist() == [1, 4]
    assert curve["mean_gmacs"].is_monotonic_increasing
    # On the split on which it was chosen, the threshold reaches the requested accuracy.
    run_test(Options(runs=(tmp_path / "run",), exit_glimpses=2.5, split="valid"))
    same = json.loads((tmp_path / "run" / "valid.json").read_text())["early_exit"]
    assert same["threshold"] == found["threshold"]
    assert same["mean_glimpses"] <= 2.5
    with pytest.raises(UserError, match="give one of them"):
        run_test(Options(runs=(tmp_path / "run",), exit_glimpses=2, exit_accuracy=0.5))


def test_no_threshold_is_chosen_on_training_photos(photos, tmp_path):
    train_run(tiny_config(photos, epochs=1, train_on="train+valid"), tmp_path / "run")
    with pytest.raises(UserError, match=r"train_on: train\+valid"):
        run_test(Options(runs=(tmp_path / "run",), exit_glimpses=1.5))
    assert not (tmp_path / "run" / "test.json").exists()
    run_test(Options(runs=(tmp_path / "run",), stop_at=0.36))  # chosen by another run
    found = json.loads((tmp_path / "run" / "test.json").read_text())["early_exit"]
    assert (found["threshold"], found["chosen"]) == (0.36, "before")
    curve = pandas.read_csv(tmp_path / "run" / "test_early_exit.csv")
    row = curve[curve["threshold"] <= 0.36].iloc[-1]
    assert found["mean_glimpses"] >= row["mean_glimpses"]
    for wrong in (dict(stop_at=1.5), dict(stop_at=0.5, exit_glimpses=1)):
        with pytest.raises(UserError, match="--stop-at"):
            run_test(Options(runs=(tmp_path / "run",), **wrong))


def test_an_unreachable_accuracy_is_reported_before_the_test(photos, tmp_path, monkeypatch):
    train_run(tiny_config(photos, epochs=1), tmp_path / "run")
    with pytest.raises(UserError, match="--exit-accuracy: 7"):
        run_test(Options(runs=(tmp_path / "run",), exit_accuracy=7))
    looked = []
    monkeypatch.setattr(
        room,
        "predict_split",
        lambda *_, **how: looked.append(how["progress"]) or predict_split(*_, **how),
    )
    with pytest.raises(UserError, match=r"--exit-accuracy: 1.0000 is not reached.* validation"):
        run_test(Options(runs=(tmp_path / "run",), exit_accuracy=1))
    assert looked == ["validation split"]


def test_a_photo_can_stop_at_the_glance(photos, tmp_path):
    config = tiny_config(photos, epochs=2, glance=(8, 8), num_glimpses=3)
    train_run(config, tmp_path / "run")
    run_test(Options(runs=(tmp_path / "run",), exit_glimpses=0.5))
    report = json.loads((tmp_path / "run" / "test.json").read_text())
    curve = pandas.read_csv(tmp_path / "run" / "test_early_exit.csv")
    assert curve["mean_glimpses"].iloc[[0, -1]].tolist() == [0, 3]
    assert curve["accuracy"].iloc[0] == pytest.approx(report["accuracy_glance"], abs=1e-5)
    assert curve["mean_gmacs"].iloc[0] == pytest.approx(report["gmacs"]["before"], abs=1e-5)
    run_test(Options(runs=(tmp_path / "run",), exit_glimpses=0.5, split="valid"))
    valid = json.loads((tmp_path / "run" / "valid.json").read_text())["early_exit"]
    assert valid["mean_glimpses"] <= 0.5 and valid["threshold"] == report["early_exit"]["threshold"]


def test_a_more_complete_report_is_not_overwritten(photos, tmp_path):
    train_run(tiny_config(photos, epochs=1), tmp_path / "run")
    run_test(Options(runs=(tmp_path / "run",), mc_samples=2))
    before = (tmp_path / "run" / "test.json").read_bytes()
    for fewer in (dict(), dict(mc_samples=2, limit_photos=3)):
        with pytest.raises(UserError, match=r"would remove figures.*--out.*--overwrite"):
            run_test(Options(runs=(tmp_path / "run",), **fewer))
    assert (tmp_path / "run" / "test.json").read_bytes() == before
    run_test(Options(runs=(tmp_path / "run",), mc_samples=3))
    run_test(Options(runs=(tmp_path / "run",), overwrite=True))
    assert "mc_samples" not in json.loads((tmp_path / "run" / "test.json").read_text())


def test_several_runs_are_compared(run, photos, tmp_path, capsys):
    train_run(tiny_config(photos, epochs=1, seed=1), tmp_path / "other")
    run_test(Options(runs=(run, tmp_path / "other"), overwrite=True))
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[-2:]] == ["mean", "std"]


def test_a_data_set_with_other_classes_is_refused(run, tmp_path):
    other = tiny_photos(tmp_path / "other")
    text = (other / "dataset.yaml").read_text()
    (other / "dataset.yaml").write_text(text.replace("- ring", "- disc"))
    manifest = (other / "manifest.csv").read_text()
    (other / "manifest.csv").write_text(manifest.replace(",ring,", ",disc,"))
    with pytest.raises(UserError, match="classes are not the"):
        run_test(Options(runs=(run,), dataset=other))


def test_a_data_set_with_other_channels_is_refused(run, tmp_path):
    other = tiny_digits(tmp_path / "other")  # grayscale, with the same classes
    with pytest.raises(UserError, match=r"have 1 channel\(s\), not the 3 that .*run was"):
        run_test(Options(runs=(run,), dataset=other))


def test_averaged_samples_are_the_mean_of_their_beliefs(run):
    from stacked_ram.data.dataset import open_dataset
    from stacked_ram.runs.checkpoint import load_run

    loaded = load_run(run, "cpu")
    config = replace_fields(loaded.config, {"batch_size": 6})
    loader = make_loader(open_dataset(config.data, "test"), config, train=False)
    many = predict_split(loaded.model, loader, samples=64)
    again = predict_split(loaded.model, loader, samples=64)
    assert np.array_equal(many.confidence_N, again.confidence_N)  # seeded
    assert many.right_NT.shape == (6, 2)
    # For each class, the mean probability lies between those of the single samples.
    singles = [
        predict_split(loaded.model, loader, samples=1, seed=seed).loss_N for seed in range(8)
    ]
    assert (many.loss_N > np.min(singles, 0) - 0.2).all()
    assert (many.loss_N < np.max(singles, 0) + 0.2).all()


def test_averaged_crops_are_reported_separately_with_their_cost(run, photos, tmp_path, capsys):
    reports = {}
    for count in (1, 5, 10):
        run_test(Options(runs=(run,), crops=count, out=tmp_path / str(count)))
        reports[count] = json.loads((tmp_path / str(count) / "test.json").read_text())
    assert "crops" not in reports[1]
    five, ten = reports[5]["crops"], reports[10]["crops"]
    assert ten["gmacs"] == pytest.approx(2 * five["gmacs"])
    assert "mean belief of 5 crops a photo" in five["pass"]
    assert reports[5]["accuracy"] == reports[1]["accuracy"], (
        "the single pass is still reported first"
    )
    assert "mean belief of 10 crops" in capsys.readouterr().out

    model = load_run(run, "cpu").model.eval()
    dataset = open_dataset(load_run(run, "cpu").config.data, "test")
    beliefs = []
    for name in dataset.names:
        with Image.open(dataset.folder / name) as image:
            photo = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        height, width = photo.shape[1:]
        high, wide = round(height * 7 / 8), round(width * 7 / 8)
        places = [(round((height - high) / 2), round((width - wide) / 2))]
        places += [(top, left) for top in (0, height - high) for left in (0, width - wide)]
        predictions = []
        for top, left in places:
            crop = photo[:, top : top + high, left : left + wide]
            for view in (crop, crop.flip(2)):
                with torch.no_grad():
                    predictions.append(model(model.photos(view[None])).logits_BTN[0, -1].softmax(0))
        beliefs.append(torch.stack(predictions).mean(0))
    right = torch.stack(beliefs).argmax(1).numpy() == dataset.labels
    assert ten["accuracy"] == pytest.approx(right.mean())
    own = torch.stack(beliefs)[torch.arange(len(dataset)), torch.tensor(dataset.labels)]
    assert ten["loss"] == pytest.approx(-own.log().mean().item(), rel=1e-4)


def test_a_linear_probe_is_a_control_of_runs_that_have_one(tmp_path, monkeypatch):
    from stacked_ram.evaluation import linear_probe

    photos = tiny_photos(tmp_path / "photos")
    monkeypatch.setattr(linear_probe, "SIZES", (32, 48))
    config = tiny_config(
        photos, epochs=1, retina="backbone", backbone="test_vit", patch_size=160, num_patches=1,
        cache="disk",
    )  # fmt: skip
    train_run(config, tmp_path / "run")
    monkeypatch.setattr(linear_probe, "SIZES", (160,))
    run_test(Options(runs=(tmp_path / "run",), controls=True))
    report = json.loads((tmp_path / "run" / "test.json").read_text())["linear_probe"]
    (row,) = report["sizes"]
    assert 0 <= row["accuracy"] <= 1
    assert row["gmacs"] > 0
    assert "middle of the photo" in report["is"] and "logistic regression" in report["is"]

    def not_again(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(linear_probe, "measure", not_again)
    run_test(Options(runs=(tmp_path / "run",), controls=True))
    again = json.loads((tmp_path / "run" / "test.json").read_text())["linear_probe"]
    assert again == report
    other = tiny_photos(tmp_path / "other", counts=(15, 6, 6))
    for changed in (dict(split="valid"), dict(dataset=other)):
        with pytest.raises(AssertionError, match="measured again"):
            run_test(Options(runs=(tmp_path / "run",), controls=True, **changed))
    moved = photos.rename(tmp_path / "moved")
    run_test(Options(runs=(tmp_path / "run",), controls=True, dataset=moved))
    again = json.loads((tmp_path / "run" / "test.json").read_text())["linear_probe"]
    assert again == report
