"""Labels of CSVs as people have them; sources whose labels are not understood are refused."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from making import by_source, check_sound, class_folders, picture, problems, run, save, summarise

from stacked_ram.runtime.errors import UserError


def flat(folder: Path, count: int = 12, first: int = 0) -> Path:
    """Make a folder of photos 000.jpg, 001.jpg ..."""
    for number in range(first, first + count):
        save(picture(number), folder / f"{number:03d}.jpg")
    return folder


def table(path: Path, header: str, lines: list[str]) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def labels_of(dest: Path) -> dict[str, str]:
    check_sound(dest)
    return {source: row["class"] for source, row in by_source(dest).items()}


@pytest.mark.parametrize(
    "header",
    [
        "id,breed",
        "image,class",
        "filename,category",
        "path,target",
        "Image Name,label",
        "file,Species",
    ],
)
def test_common_columns_and_names_without_suffix(tmp_path: Path, header: str) -> None:
    """Like Kaggle's: photos in train/, unlabelled ones in test/, a form for the answers."""
    source = tmp_path / "in"
    flat(source / "train")
    flat(source / "test", 4, first=50)
    table(source / "labels.csv", header, [f"{n:03d},{'ab'[n % 2]}" for n in range(12)])
    table(source / "sample_submission.csv", "id,a,b", ["050,0.5,0.5", "051,0.5,0.5"])
    info = run(source, tmp_path / "out")
    assert info["layout"] == "labels_csv" and info["left_out"] == {}
    assert labels_of(tmp_path / "out") == {f"train/{n:03d}.jpg": "ab"[n % 2] for n in range(12)}


def test_one_hot_columns(tmp_path: Path) -> None:
    source = flat(tmp_path / "in")
    lines = [f"{n:03d}.jpg,{n % 3 == 0:d},{n % 3 == 1:d}.0,{n % 3 == 2:d}" for n in range(12)]
    table(source / "any.csv", "image,Healthy,Rust,Scab", lines)
    run(source, tmp_path / "out")
    assert labels_of(tmp_path / "out") == {
        f"{n:03d}.jpg": ("Healthy", "Rust", "Scab")[n % 3] for n in range(12)
    }
    for cells, message in (("1,1,0", r"two labels \(healthy, rust\)"), ("0,0,0", "no label")):
        table(source / "any.csv", "image,Healthy,Rust,Scab", [*lines * 10, f"000.jpg,{cells}"])
        with pytest.raises(UserError, match=f"line 122: {message}"):
            run(source, tmp_path / "other")


def test_a_csv_for_each_split(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for first, name, count in ((0, "train", 8), (100, "test", 4)):
        for number in range(count):  # the same names in both
            save(picture(first + number), source / name / f"{number}.png")
        lines = [f"{n},{'ab'[n % 2]}" for n in range(count)]
        table(source / f"{name}.csv", "id,label", lines)
    info = run(source, tmp_path / "out")
    assert info["counts"]["test"] == {"a": 2, "b": 2}
    for name, row in by_source(tmp_path / "out").items():
        assert (row["split"] == "test") == name.startswith("test/")
    table(source / "test.csv", "id", ["0", "1"])  # without labels, as Kaggle's
    info = run(source, tmp_path / "unlabelled")
    assert sum(sum(counts.values()) for counts in info["counts"].values()) == 8
    assert "test.csv with the columns id is not used" in " ".join(info["notes"])


def test_a_name_of_two_photos_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in"
    flat(source / "one")
    flat(source / "two", 1)
    table(source / "labels.csv", "id,breed", [f"{n:03d},{'ab'[n % 2]}" for n in range(12)])
    with pytest.raises(UserError, match=r"line 2: '000' may be one/000.jpg or two/000.jpg"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("id_code,has_cactus", "labels.csv with the columns id_code, has_cactus"),
        ("000.jpg,a", "labels.csv with the columns 000.jpg, a"),
        ("breed,sex", "labels.csv with the columns breed, sex"),
    ],
)
@pytest.mark.parametrize("folders", [("train",), ("train", "test"), ("photos",), ()])
def test_columns_that_are_not_understood_are_named(
    tmp_path: Path, header: str, found: str, folders: tuple[str, ...]
) -> None:
    source = tmp_path / "in"
    for number, folder in enumerate(folders or (".",)):
        flat(source / folder, 6, first=50 * number)
    labels = table(source / "labels.csv", header, [f"{n:03d},{'ab'[n % 2]}" for n in range(6)])
    for options in ({}, {"labels": labels}, {"layout": "labels_csv"}):
        with pytest.raises(UserError) as raised:
            run(source, tmp_path / "out", **options)
        assert found in str(raised.value)
    assert not [*tmp_path.glob("*out*")]


def test_one_class_must_be_asked_for(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"cat": 8})
    with pytest.raises(UserError, match=r"one class, 'cat'.*--classes cat"):
        run(source, tmp_path / "out")
    assert run(source, tmp_path / "out", classes="cat")["classes"] == ["cat"]


def test_labels_without_a_single_photo_say_so(tmp_path: Path) -> None:
    source = flat(tmp_path / "in")
    lines = [f"photos/{n:03d}.jpg,{'ab'[n % 2]}" for n in range(12)]
    labels = table(tmp_path / "labels.csv", "file,label", lines)
    with pytest.raises(UserError, match=r"no such file below .*/in: 'photos/000.jpg', .*of 12"):
        run(source, tmp_path / "out", labels=labels)
    table(labels, "file,label", [f"{n:03d}.jpg,{'ab'[n % 2]}" for n in range(13)])
    run(source, tmp_path / "out", labels=labels)
    assert problems(tmp_path / "out") == {"012.jpg": "unreadable"}


def test_classes_that_differ_in_case_or_unicode_form_are_said_and_joined(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Bär") for form in ("NFC", "NFD"))
    source = class_folders(
        tmp_path / "in", {"Cat": 8, "cat": 5, "dog": 5, composed: 5, decomposed: 6}
    )
    summary = summarise(source, tmp_path / "apart")
    assert len(summary.classes) == 5
    said = [note for note in summary.notes if "--join-classes joins them" in note]
    assert len(said) == 2 and "'cat' and 'Cat'" in " ".join(said)
    joined = summarise(source, tmp_path / "joined", join_classes=True)
    assert sorted(joined.classes) == sorted(["Cat", "dog", decomposed])
    assert sum(joined.photos.values()) == 29
    check_sound(tmp_path / "joined")
    assert not summarise(source, tmp_path / "chosen", classes="dog,Cat").notes


def test_a_link_to_itself_is_the_fault_of_that_file_alone(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    (source / "a" / "loop.jpg").symlink_to(source / "a" / "loop.jpg")
    (source / "self").symlink_to(source / "self")
    run(source, tmp_path / "out")
    check_sound(tmp_path / "out")
    assert problems(tmp_path / "out") == {"loop.jpg": "unreadable"}


def test_folders_with_a_leading_dot_are_said(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    class_folders(source, {".c": 3, "a/.more": 2}, first=50)
    notes = " ".join(run(source, tmp_path / "out")["notes"])
    assert "2 folders whose names begin with a dot are not used: .c/, a/.more/" in notes
    for split in ("train", "test"):
        class_folders(tmp_path / "splits" / split, {"a": 6, "b": 6, ".c": 6}, first=len(split))
    notes = " ".join(run(tmp_path / "splits", tmp_path / "out2")["notes"])
    assert "test/.c/, train/.c/" in notes or "train/.c/, test/.c/" in notes
