from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import yaml
from small_sets import COUNTS, config_of, make_digits, make_photos, write_info

from stacked_ram.data.dataset import open_dataset, stratified
from stacked_ram.runtime.errors import UserError


def opened(folder, split="train", **data):
    return open_dataset(config_of(folder, **data).data, split)


def test_a_split_with_its_labels_and_boxes(tmp_path):
    make_photos(tmp_path)
    dataset = opened(tmp_path, "valid")
    assert len(dataset) == COUNTS["valid"] == len(dataset.names)
    assert dataset.classes == ("a", "b", "c")
    assert [dataset.classes[label] for label in dataset.labels] == [
        name.split("/")[1] for name in dataset.names
    ]
    assert dataset.labels.dtype == np.int64
    assert (dataset.boxes == [5, 6, 20, 18]).all()
    assert dataset.mean == (0.4, 0.4, 0.4)


def test_all_objects_of_the_photos_class_come_from_boxes_csv(tmp_path):
    make_photos(tmp_path)
    names = opened(tmp_path, "valid").names
    lines = ["path,class,box_left,box_top,box_right,box_bottom"]
    lines += [f"{names[1]},b,1,2,3,4", f"{names[1]},c,9,9,12,12", f"{names[0]},a,5,6,20,18"]
    lines += [f"{names[1]},b,5,6,20,18"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    objects = opened(tmp_path, "valid").objects
    assert objects.shape == (len(names), 2, 4) and objects.dtype == np.float32
    assert objects[1].tolist() == [[1, 2, 3, 4], [5, 6, 20, 18]]
    others = np.delete(objects, 1, axis=0)
    assert (others[:, 0] == [5, 6, 20, 18]).all() and np.isnan(others[:, 1]).all()
    (tmp_path / "boxes.csv").write_text("path,class\n")
    with pytest.raises(UserError, match=r"boxes\.csv: cannot be read"):
        opened(tmp_path, "valid")


def test_a_class_named_like_a_missing_value_is_a_class(tmp_path):
    make_photos(tmp_path, classes=("NA", "null", "nan"))
    assert set(opened(tmp_path).labels) == {0, 1, 2}


def test_train_on_adds_the_validation_photos(tmp_path):
    make_photos(tmp_path)
    both = opened(tmp_path, train_on="train+valid")
    assert len(both) == COUNTS["train"] + COUNTS["valid"]
    assert not any(name.startswith("test") for name in both.names)


def test_folds_divide_everything_but_the_test_photos(tmp_path):
    make_photos(tmp_path, folds=3)
    held_out = [set(opened(tmp_path, "valid", fold=fold).names) for fold in range(3)]
    for fold in range(3):
        trained_on = set(opened(tmp_path, fold=fold).names)
        assert not trained_on & held_out[fold]
        assert len(trained_on | held_out[fold]) == COUNTS["train"] + COUNTS["valid"]
        whole = set(opened(tmp_path, fold=fold, train_on="train+valid").names)
        assert whole == trained_on | held_out[fold]
    assert len(set.union(*held_out)) == sum(map(len, held_out))
    assert len(opened(tmp_path, "test", fold=1)) == COUNTS["test"]
    with pytest.raises(UserError, match=r"fold: 3 is not among .*\[0, 1, 2\]"):
        opened(tmp_path, fold=3)


def test_fold_needs_a_data_set_with_folds(tmp_path):
    make_photos(tmp_path)
    with pytest.raises(UserError, match="without --folds"):
        opened(tmp_path, fold=0)


def test_limit_photos_keeps_the_class_proportions_and_the_same_photos(tmp_path):
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    chosen = stratified(labels, 20)
    assert np.bincount(labels[chosen]).tolist() == [12, 6, 2]
    assert (chosen == stratified(labels, 20)).all()
    assert set(labels[stratified(labels, 3)]) == {0, 1, 2}  # no class is lost
    assert len(stratified(labels, 1000)) == 100
    make_photos(tmp_path)
    limited = opened(tmp_path, limit_photos=6)
    assert np.bincount(limited.labels).tolist() == [2, 2, 2]
    assert limited.names == opened(tmp_path, limit_photos=6).names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format: 2, not 1"),
        ({"kind": "films"}, "kind: 'films' is not valid"),
        ({"classes": []}, r"classes: \[\] is not valid"),
        ({"classes": ["a", "a"]}, "named twice"),
        ({"mean": [0.5]}, r"mean: \[0.5\] is not valid"),
        ({"std": "wide"}, "std: 'wide' is not valid"),
        ({"std": [0.2, -0.1, 0.2]}, r"std: \[0.2, -0.1, 0.2\] is not valid"),
        ({"std": [0.2, float("nan"), 0.2]}, r"std: \[0.2, nan, 0.2\] is not valid"),
        ({"mean": [0.5, 0.5, float("inf")]}, r"mean: \[0.5, 0.5, inf\] is not valid"),
        ({"mean": [-0.5, 0.5, 0.5]}, r"mean: \[-0.5, 0.5, 0.5\] is not valid"),
        ({"channels": 2}, "channels: 2 is not valid"),
        ({"classes": ["a", "b"]}, "class `c` is not among those of dataset.yaml"),
        ({"classes": ["a", "b", "c", "d"]}, "class `d` has no training photo"),
    ],
)
def test_a_wrong_dataset_yaml_is_named(tmp_path, change, message):
    make_photos(tmp_path)
    info = yaml.safe_load((tmp_path / "dataset.yaml").read_text())
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(info | change))
    with pytest.raises(UserError, match=message) as caught:
        opened(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_whose_names_are_numbers(tmp_path):
    make_photos(tmp_path, classes=("007", "7", "1e3"))
    photos = opened(tmp_path)
    assert photos.classes == ("007", "7", "1e3")
    named = [photos.classes[label] for label in photos.labels]
    assert named == [name.split("/")[1] for name in photos.names] and len(set(named)) == 3


def test_a_constant_channel_is_divided_by_1(tmp_path):
    make_photos(tmp_path, std=[0.25, 0.0, 0])
    assert opened(tmp_path).std == (0.25, 1.0, 1.0)


def test_no_data_set_says_how_to_make_one(tmp_path):
    with pytest.raises(
        UserError, match=r"no prepared data set at .*; run .*prepare_data.py SOURCE"
    ):
        opened(tmp_path / "nothing")
    with pytest.raises(UserError, match="is there, dataset"):
        opened(tmp_path)


def test_invalid_yaml(tmp_path):
    make_photos(tmp_path)
    for text in ("a: [", "", "- 1", "\x00"):
        (tmp_path / "dataset.yaml").write_text(text)
        with pytest.raises(UserError, match=r"valid YAML|missing"):
            opened(tmp_path)


def test_a_manifest_that_is_missing_or_cut(tmp_path):
    make_photos(tmp_path)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,class\n")
    with pytest.raises(UserError, match="no column height, split, width"):
        opened(tmp_path)
    manifest.write_text("")
    with pytest.raises(UserError, match="cannot be read"):
        opened(tmp_path)
    manifest.unlink()
    with pytest.raises(UserError, match="missing"):
        opened(tmp_path)


@pytest.mark.parametrize("wrong", ["640px", "", "0", "-3"])
def test_an_invalid_size_is_named_with_its_photo(tmp_path, wrong):
    make_photos(tmp_path)
    manifest = tmp_path / "manifest.csv"
    lines = manifest.read_text().splitlines()
    cells = lines[2].split(",")
    cells[lines[0].split(",").index("width")] = wrong
    manifest.write_text("\n".join([*lines[:2], ",".join(cells), *lines[3:]]) + "\n")
    with pytest.raises(
        UserError, match=rf"manifest\.csv: width of {cells[0]} is `.*`, not a number"
    ):
        opened(tmp_path)


def test_a_missing_split(tmp_path):
    make_photos(tmp_path, {"train": 6, "test": 3})
    assert len(opened(tmp_path)) == 6
    with pytest.raises(UserError, match="the valid split is empty"):
        opened(tmp_path, "valid")


def test_digits(tmp_path):
    make_digits(tmp_path, canvas=[20, 30], translate=True, clutter=2, clutter_size=3)
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert train.kind == "digits" and train.channels == 1
    assert not train.digits.composed and train.digits.images_NHW.shape == (40, 8, 8)
    assert test.digits.composed and test.digits.images_NHW.shape == (10, 20, 30)
    assert (test.boxes == [0, 0, 8, 8]).all()
    assert (train.sizes == [20, 30]).all()
    both = opened(tmp_path, train_on="train+valid")
    assert both.digits.images_NHW.shape == (50, 8, 8)  # the digits, not their canvases
    assert len(opened(tmp_path, limit_photos=10).digits.images_NHW) == 10


def test_the_digest_distinguishes_digits_and_canvases(tmp_path):
    made = {
        "moved": make_digits(tmp_path / "moved", canvas=[20, 20], translate=True),
        "cluttered": make_digits(
            tmp_path / "cluttered", canvas=[20, 20], translate=True, clutter=2
        ),
        "other": make_digits(tmp_path / "other", canvas=[20, 20], translate=True),
        "copy": make_digits(tmp_path / "copy", canvas=[20, 20], translate=True),
    }
    for split in ("train", "valid"):
        images = np.load(tmp_path / "other" / split / "images.npy")
        images[0] = 255 - images[0]
        np.save(tmp_path / "other" / split / "images.npy", images)
        digest = {name: opened(folder, split).digest() for name, folder in made.items()}
        assert digest["moved"] == digest["copy"]
        assert len(set(digest.values())) == 3


def test_arrays_of_digits_that_do_not_fit_together(tmp_path):
    make_digits(tmp_path)
    np.save(tmp_path / "train" / "labels.npy", np.zeros(3, np.int64))
    with pytest.raises(UserError, match="do not belong together"):
        opened(tmp_path)
    np.save(tmp_path / "train" / "labels.npy", np.full(40, 10))
    with pytest.raises(UserError, match="not among the classes"):
        opened(tmp_path)
    (tmp_path / "train" / "labels.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="cannot be read"):
        opened(tmp_path)
    write_info(tmp_path, kind="digits", classes=list("0123456789"), channels=1, canvas=[9, 9])
    with pytest.raises(UserError, match="yaml says"):
        opened(tmp_path, "test")


def test_opening_and_reading_need_no_torch(tmp_path):
    make_photos(tmp_path)
    code = (
        "import sys\n"
        "from stacked_ram.config.schema import DataConfig\n"
        "from stacked_ram.data.dataset import open_dataset\n"
        "from stacked_ram.images.decoding import read_photo\n"
        f"found = open_dataset(DataConfig(dataset={str(tmp_path)!r}), 'train')\n"
        "read_photo(found.folder / found.names[0])\n"
        "assert 'torch' not in sys.modules and 'albumentations' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
