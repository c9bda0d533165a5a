"""Official data sets in their published layouts: classes, splits, boxes."""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from making import (
    by_source,
    check_sound,
    picture,
    rows,
    run,
    save,
)
from scipy.io import savemat

from stacked_ram.cli.prepare import main
from stacked_ram.runtime.errors import UserError


def box_of(row: dict[str, str]) -> tuple[float, ...]:
    return tuple(float(row[f"box_{side}"]) for side in ("left", "top", "right", "bottom"))


def flowers17(root: Path, splits: bool = True) -> Path:
    """Make ten photos of each of three classes, with the official numbers."""
    numbers = [80 * klass + n for klass in (0, 7, 16) for n in range(1, 11)]
    for number in numbers:
        save(picture(number), root / "jpg" / f"image_{number:04d}.jpg")
    (root / "jpg/files.txt").write_text("".join(f"image_{n:04d}.jpg\n" for n in numbers))
    if splits:
        parts = {}
        for index in (1, 2, 3):
            order = np.random.default_rng(index).permutation(10)
            of = {"trn": order[:5], "val": order[5:8], "tst": order[8:]}
            for name, places in of.items():
                found = [n for n in numbers if (n - 1) % 80 in places]
                parts[f"{name}{index}"] = np.array([found], dtype=np.uint16)
        savemat(root / "datasplits.mat", parts)
    return root


def test_flowers17(tmp_path: Path) -> None:
    source = flowers17(tmp_path / "in")
    info = run(source, tmp_path / "out")
    assert info["classes"] == ["daffodil", "pansy", "tulip"]
    assert "official split 1" in info["rule"]
    assert set(info["counts"]["train"].values()) == {5}
    places = np.random.default_rng(3).permutation(10)
    info = run(source, tmp_path / "out3", official_split=3)
    for source_name, row in by_source(tmp_path / "out3").items():
        place = (int(source_name[-8:-4]) - 1) % 80
        expected = "train" if place in places[:5] else "valid" if place in places[5:8] else "test"
        assert row["split"] == expected
        assert (
            row["class"]
            == {0: "daffodil", 7: "tulip", 16: "pansy"}[(int(source_name[-8:-4]) - 1) // 80]
        )


def test_flowers17_without_splits_and_by_ratio(tmp_path: Path) -> None:
    info = run(flowers17(tmp_path / "in", splits=False), tmp_path / "out")
    assert "drawn by seed" in info["rule"]
    assert set(info["counts"]["test"].values()) == {2}
    info = run(flowers17(tmp_path / "in2"), tmp_path / "o2", split="ratio", test_ratio=0.4)
    assert set(info["counts"]["test"].values()) == {4}


def test_flowers17_in_the_official_archive(tmp_path: Path) -> None:
    folder = flowers17(tmp_path / "in")
    with tarfile.open(tmp_path / "17flowers.tgz", "w:gz") as packed:
        packed.add(folder / "jpg", "jpg")
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.move(tmp_path / "17flowers.tgz", kept)
    shutil.move(folder / "datasplits.mat", kept)
    info = run(kept, tmp_path / "out")
    assert info["layout"] == "flowers17"
    assert "official split 1" in info["rule"]
    check_sound(tmp_path / "out")


@pytest.mark.parametrize(
    "content", [b"", b"no matlab file" * 30, b"MATLAB 7.3 MAT-file" + bytes(200)]
)
def test_broken_mat_file(tmp_path: Path, content: bytes) -> None:
    source = flowers17(tmp_path / "in")
    (source / "datasplits.mat").write_bytes(content)
    with pytest.raises(UserError, match=r"datasplits\.mat"):
        run(source, tmp_path / "out")


def test_flowers102(tmp_path: Path) -> None:
    source = tmp_path / "in"
    labels = [1, 77, 102]
    for number in range(1, 31):
        save(picture(number), source / "jpg" / f"image_{number:05d}.jpg")
    savemat(source / "imagelabels.mat", {"labels": [[labels[n % 3] for n in range(30)]]})
    ids = np.arange(1, 31)
    savemat(source / "setid.mat", {"trnid": ids[:15], "valid": ids[15:21], "tstid": ids[21:]})
    info = run(source, tmp_path / "out")
    assert info["classes"] == ["blackberry lily", "passion flower", "pink primrose"]
    assert {s: sum(c.values()) for s, c in info["counts"].items()} == {
        "train": 15, "valid": 6, "test": 9,
    }  # fmt: skip
    assert by_source(tmp_path / "out")["jpg/image_00002.jpg"]["class"] == "passion flower"


def dogs(root: Path, size: tuple[int, int] = (60, 40)) -> Path:
    names = {"train": [], "test": []}
    for folder in ("n02085620-Chihuahua", "n02088632-bluetick"):
        for number in range(10):
            name = f"{folder}/{folder[:9]}_{number}.jpg"
            save(picture(hash_of(name), size), root / "Images" / name)
            names["train" if number < 7 else "test"].append(name)
    for split, listed in names.items():
        cells = np.empty((len(listed), 1), dtype=object)
        cells[:, 0] = listed
        (root / "lists").mkdir(exist_ok=True)
        savemat(root / "lists" / f"{split}_list.mat", {"file_list": cells})
    return root


def hash_of(text: str) -> int:
    return zlib.crc32(text.encode())


def annotate(
    root: Path, name: str, size: tuple[int, int], boxes: list[tuple], head: str = ""
) -> None:
    path = root / "Annotation" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = "".join(
        f"<object><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
        "</bndbox></object>"
        for a, b, c, d in boxes
    )
    path.write_text(
        f"{head}<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"{objects}</annotation>"
    )


def test_stanford_dogs(tmp_path: Path) -> None:
    source = dogs(tmp_path / "in")
    annotate(source, "n02088632-bluetick/n02088632_0", (60, 40), [(1, 1, 5, 5), (6, 8, 30, 28)])
    annotate(source, "n02088632-bluetick/n02088632_1", (500, 400), [(6, 8, 30, 28)])
    evil = '<!DOCTYPE a [<!ENTITY x "y">]>'
    annotate(source, "n02088632-bluetick/n02088632_2", (60, 40), [(6, 8, 30, 28)], head=evil)
    info = run(source, tmp_path / "out", short_side=20)
    assert info["classes"] == ["Chihuahua", "bluetick"]
    assert {s: sum(c.values()) for s, c in info["counts"].items()} == {
        "train": 12, "valid": 2, "test": 6,
    }  # fmt: skip
    found = by_source(tmp_path / "out")
    assert box_of(found["Images/n02088632-bluetick/n02088632_0.jpg"]) == (3, 4, 15, 14)
    assert found["Images/n02088632-bluetick/n02088632_1.jpg"]["box_left"] == ""
    assert any("1 boxes were drawn on photos of another size" in note for note in info["notes"])
    assert any("1 annotations could not be read" in note for note in info["notes"])


def test_cub200(tmp_path: Path) -> None:
    root = tmp_path / "in" / "CUB_200_2011"
    names = [f"00{1 + n % 2}.{['Auk', 'Wren'][n % 2]}/bird_{n}.jpg" for n in range(16)]
    for number, name in enumerate(names):
        save(picture(number, (60, 40)), root / "images" / name)
    write = {
        "images.txt": [f"{n} {name}" for n, name in enumerate(names)],
        "classes.txt": ["1 001.Auk", "2 002.Wren"],
        "image_class_labels.txt": [f"{n} {1 + n % 2}" for n in range(16)],
        "train_test_split.txt": [f"{n} {int(n < 10)}" for n in range(16)],
        "bounding_boxes.txt": [f"{n} 6.0 8.0 24.0 20.0" for n in range(16)],
    }
    for name, lines in write.items():
        (root / name).write_text("\n".join(lines) + "\n")
    info = run(tmp_path / "in", tmp_path / "out")
    assert info["classes"] == ["Auk", "Wren"]
    assert sum(info["counts"]["test"].values()) == 6
    assert {box_of(row) for row in rows(tmp_path / "out")} == {(6, 8, 30, 28)}


def test_bach(tmp_path: Path) -> None:
    photos = tmp_path / "in" / "ICIAR2018_BACH_Challenge" / "Photos"
    for first, name in enumerate(("Benign", "InSitu", "Invasive", "Normal")):
        for number in range(5):
            save(picture(10 * first + number, (96, 72)), photos / name / f"b{number:03d}.tif")
    (photos / "microscopy_ground_truth.csv").write_text("b001.tif,Benign\n")
    (photos.parent / "WSI").mkdir()
    info = run(tmp_path / "in", tmp_path / "out", short_side=36)
    assert info["layout"] == "bach"
    assert info["classes"] == ["Benign", "InSitu", "Invasive", "Normal"]
    assert {(row["width"], row["height"]) for row in rows(tmp_path / "out")} == {("48", "36")}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--valid-ratio", "0.3"], "valid"), (["--test-ratio", "0.1"], "test"),
        (["--valid-ratio", "0"], "valid"),
    ],
)  # fmt: skip
def test_a_ratio_that_an_official_split_would_ignore_is_refused(
    tmp_path: Path, capsys, arguments: list[str], part: str
) -> None:
    source = flowers17(tmp_path / "in")
    for more in ([], ["--dry-run"]):
        assert main([str(source), str(tmp_path / "out"), *arguments, *more]) == 2
        error = capsys.readouterr().err.strip()
        assert f"has its own {part} part" in error and "--split ratio" in error
        assert error.count("\n") == 0
    assert os.listdir(tmp_path) == ["in"]
    assert main([str(source), str(tmp_path / "out"), *arguments, "--split", "ratio"]) == 0
