"""Boxes of CSV, COCO, YOLO and VOC annotations fit the stored pixels, whatever was done to them."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from making import by_source, check_sound, picture, rows
from making import run as run_with
from PIL import Image

from stacked_ram.runtime.errors import UserError

SIDES = ("box_left", "box_top", "box_right", "box_bottom")
# Red objects: the large one is the object of the class a or b, the small one always a "dot".
LARGE, SMALL = (120, 60, 240, 140), (20, 160, 52, 180)
SIZE = (320, 200)


def run(source: Path, dest: Path, **options) -> dict:
    """Prepare photos that look alike, but are none."""
    return run_with(source, dest, near_duplicates=-1, **options)


def photo(path: Path, seed: int, orientation: int = 1, suffix: str = ".png") -> Path:
    """Save a dark photo with two red objects, on its side if EXIF says so."""
    image = Image.eval(picture(seed, SIZE), lambda value: value // 8)
    image.paste((255, 0, 0), LARGE)
    image.paste((255, 0, 0), SMALL)
    exif = Image.Exif()
    exif[274] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path.with_suffix(suffix), exif=exif)
    return path


def upright(box: tuple[int, ...], orientation: int) -> tuple[int, ...]:
    """Return the box of the photo as a viewer shows it: for 6, turned clockwise."""
    if orientation == 1:
        return box
    left, top, right, bottom = box
    return SIZE[1] - bottom, left, SIZE[1] - top, right


def check_boxes(dest: Path, count: int = 12) -> None:
    """Check all boxes of a set of photos of two objects against the stored pixels."""
    check_sound(dest)
    found: dict[str, list[dict]] = {}
    for row in rows(dest, "boxes.csv"):
        found.setdefault(row["path"], []).append(row)
    assert len(found) == count
    for row in rows(dest):
        image = np.asarray(Image.open(dest / row["path"]).convert("RGB")).astype(int)
        red = (image[..., 0] > 128) & (image[..., 1] < 100)
        listed = found[row["path"]]
        assert len(listed) == 2
        assert [listed[0][side] for side in SIDES] == [row[side] for side in SIDES]
        seen = np.zeros_like(red)
        for box in listed:
            left, top, right, bottom = (round(float(box[side])) for side in SIDES)
            assert red[top + 1 : bottom - 1, left + 1 : right - 1].all()
            seen[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = True
        assert not (red & ~seen).any()


def turned(number: int) -> int:
    return 6 if number % 3 == 0 else 1


def test_rows_of_a_csv_are_boxes_of_one_photo(tmp_path: Path) -> None:
    source = tmp_path / "in"
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for box in (LARGE, SMALL):
        for n in range(12):
            photo(source / f"{n}.png", n, turned(n))
            lines.append(f"{n}.png,320,200,{'ab'[n % 2]}," + ",".join(map(str, box)))
    (source / "boxes.csv").write_text("\n".join(lines))
    info = run(source, tmp_path / "out", short_side=100)
    assert info["classes"] == ["a", "b"] and len(rows(tmp_path / "out")) == 12
    check_boxes(tmp_path / "out")


def test_rows_of_a_csv_may_have_several_labels_if_each_has_its_box(tmp_path: Path) -> None:
    source = tmp_path / "in"
    lines = ["file,category,xmin,ymin,xmax,ymax"]
    for n in range(14):
        photo(source / f"{n}.png", n)
        other = ("dot", SMALL) if n < 13 else ("a", LARGE)  # two labels for one box
        for label, box in (other, ("ab"[n % 2], LARGE)):
            lines.append(f"{n}.png,{label}," + ",".join(map(str, box)))
    (source / "boxes.csv").write_text("\n".join(lines))
    info = run(source, tmp_path / "out")
    assert info["left_out"] == {"conflict": 2}
    assert {row["class"] for row in rows(tmp_path / "out")} == {"a", "b"}
    assert "13 photos show objects of several classes" in " ".join(info["notes"])
    found = [row for row in rows(tmp_path / "out", "boxes.csv") if row["class"] != "dot"]
    assert len(found) == 13
    assert {tuple(float(row[side]) for side in SIDES) for row in found} == {LARGE}


def coco(
    photos: list[tuple[str, int]], size_of: str = "file", names: tuple[str, ...] = ("a", "b", "dot")
) -> str:
    """Return COCO annotations of photos, drawn on the file's pixels or on the upright photo."""
    images, annotations = [], []
    for n, (name, orientation) in enumerate(photos):
        size = SIZE
        boxes = [LARGE, SMALL]
        if size_of == "upright":
            size = SIZE if orientation == 1 else SIZE[::-1]
            boxes = [upright(box, orientation) for box in boxes]
        images.append({"id": 100 + n, "file_name": name, "width": size[0], "height": size[1]})
        for label, (left, top, right, bottom) in zip((n % 2, 2), boxes, strict=True):
            box = [left, top, right - left, bottom - top]
            annotations.append({"image_id": 100 + n, "category_id": label, "bbox": box})
        annotations.append(
            {"image_id": 100 + n, "category_id": 2, "bbox": [0, 0, 320, 200], "iscrowd": 1}
        )
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    images.append({"id": 1, "file_name": "empty.png", "width": 8, "height": 8})
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


@pytest.mark.parametrize("size_of", ["file", "upright"])
def test_coco(tmp_path: Path, size_of: str) -> None:
    source = tmp_path / "in"
    for n in range(12):
        photo(source / "train2017" / f"{n:012d}.png", n, turned(n))
    photo(source / "train2017" / "empty.png", 50)
    photo(source / "train2017" / "forgotten.png", 51)
    (source / "annotations").mkdir()
    listed = [(f"{n:012d}.png", turned(n)) for n in range(12)]
    (source / "annotations/instances_train2017.json").write_text(coco(listed, size_of))
    (source / "annotations/captions_train2017.json").write_text('{"images": []}')
    info = run(source, tmp_path / "out", short_side=100)
    assert info["layout"] == "coco" and info["classes"] == ["a", "b"]
    notes = " ".join(info["notes"])
    assert "12 photos show objects of several classes: the largest decides" in notes
    assert "1 photos without an object" in notes and "1 photos without an entry" in notes
    assert {row["class"] for row in rows(tmp_path / "out", "boxes.csv")} == {"a", "b", "dot"}
    check_boxes(tmp_path / "out")
    dots = run(source, tmp_path / "dots", classes="dot")
    assert dots["classes"] == ["dot"] and len(rows(tmp_path / "dots")) == 12


def test_coco_in_the_folders_of_splits_or_given(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for first, split, count in ((0, "train", 8), (50, "valid", 4), (80, "test", 4)):
        for n in range(count):
            photo(source / split / f"{n}.png", first + n)
        photo(source / split / "empty.png", first + 20)
        names = [(f"{n}.png", 1) for n in range(count)]
        (source / split / "_annotations.coco.json").write_text(coco(names))
    info = run(source, tmp_path / "out")
    assert {s: sum(c.values()) for s, c in info["counts"].items()} == {
        "train": 8, "valid": 4, "test": 4,
    }  # fmt: skip
    check_boxes(tmp_path / "out", 16)
    for row in rows(tmp_path / "out"):
        assert row["source"].split("/")[0] == row["split"]
    labels = tmp_path / "labels.json"
    labels.write_text(
        coco([(f"train/{n}.png", 1) for n in range(8)]).replace("empty", "test/empty")
    )
    run(source, tmp_path / "given", labels=labels)
    check_boxes(tmp_path / "given", 8)
    labels.write_text(coco([(f"nowhere/{n}.png", 1) for n in range(8)]).replace("empty", "none"))
    with pytest.raises(UserError, match="no such file below"):
        run(source, tmp_path / "other", labels=labels)
    labels.write_text('{"images": [{}], "annotations": [], "categories": []}')
    with pytest.raises(UserError, match=r"labels.json: not COCO annotations"):
        run(source, tmp_path / "other", labels=labels)


def yolo_lines(n: int, orientation: int, polygon: bool = False) -> str:
    size = SIZE if orientation == 1 else SIZE[::-1]
    lines = []
    for label, box in ((n % 2, LARGE), (2, SMALL)):
        left, top, right, bottom = upright(box, orientation)
        left, right, top, bottom = left / size[0], right / size[0], top / size[1], bottom / size[1]
        numbers = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        if polygon:
            numbers = [left, top, right, top, right, bottom, left, bottom]
        lines.append(f"{label} " + " ".join(f"{number:.6f}" for number in numbers))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("layout", ["images/train", "train/images", "flat"])
def test_yolo(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "in"
    for first, split, count in ((0, "train", 10), (50, "val", 4)):
        folder = {"images/train": f"images/{split}", "train/images": f"{split}/images"}.get(layout)
        for n in range(count):
            path = photo(source / (folder or "") / f"{split}{n}.png", first + n, turned(n))
            labels = source / (folder or "").replace("images", "labels") / f"{split}{n}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text(yolo_lines(n, turned(n), polygon=n == 5))
            assert path.exists()
    last = labels
    if layout == "flat":
        (source / "classes.txt").write_text("a\nb\ndot\n")
    else:
        (source / "data.yaml").write_text("train: images/train\nnames: {0: a, 1: b, 2: dot}\n")
    info = run(source, tmp_path / "out", short_side=100)
    assert info["layout"] == "yolo" and info["classes"] == ["a", "b"]
    check_boxes(tmp_path / "out", 14)
    if layout != "flat":
        assert sum(info["counts"]["valid"].values()) == 4
    for line, message in [
        ("7 0.5 0.5 0.1 0.1", "line 1: class 7 has no name"),
        ("0 50 50 10 10", "must be fractions"),
        ("0 0.5 0.5 0.1", "3 numbers are neither"),
        ("cat 0.5 0.5 0.1 0.1", "is not a class and numbers"),
    ]:
        last.write_text(line)
        with pytest.raises(UserError, match=message):
            run(source, tmp_path / "other")


def voc(name: str, n: int, size: tuple[int, int] = SIZE) -> str:
    objects = "".join(
        f"<object><name>{label}</name><bndbox>"
        + "".join(
            f"<{side}>{value}</{side}>"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for label, box in (("ab"[n % 2], LARGE), ("dot", SMALL))
    )
    return (
        f"<annotation><filename>{name}</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height></size>{objects}</annotation>"
    )


def test_voc(tmp_path: Path) -> None:
    source = tmp_path / "in" / "VOCdevkit" / "VOC2012"
    (source / "Annotations").mkdir(parents=True)
    (source / "ImageSets/Main").mkdir(parents=True)
    for n in range(14):
        photo(source / "JPEGImages" / f"2012_{n}.png", n, turned(n))
        (source / "Annotations" / f"2012_{n}.xml").write_text(voc(f"2012_{n}.png", n))
    for name, numbers in (("train", range(8)), ("val", range(8, 14))):
        lines = "\n".join(f"2012_{n}" for n in numbers)
        (source / "ImageSets/Main" / f"{name}.txt").write_text(lines)
    info = run(tmp_path / "in", tmp_path / "out", short_side=100)
    assert info["layout"] == "voc" and sum(info["counts"]["valid"].values()) == 6
    check_boxes(tmp_path / "out", 14)


def test_voc_beside_the_photos_of_splits(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for first, split in ((0, "train"), (50, "test")):
        for n in range(8):
            photo(source / split / f"{n}.png", first + n)
            (source / split / f"{n}.xml").write_text(voc(f"{n}.png", n))
    run(source, tmp_path / "out")
    check_boxes(tmp_path / "out", 16)
    for row in by_source(tmp_path / "out").values():
        assert (row["split"] == "test") == row["source"].startswith("test/")


def test_annotations_inside_one_class_do_not_hide_the_other_classes(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for n in range(12):
        photo(source / "ab"[n % 2] / f"{n}.png", n)
    (source / "a" / "0.xml").write_text(voc("0.png", 0))
    assert run(source, tmp_path / "out")["classes"] == ["a", "b"]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return the content with a few bytes changed, left out, or exchanged for odd ones."""
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(changed))
        odd = rng.choice(
            [b"\0", b"\xff", b'"', b"[", b"}", b"-", b"nan", b"1e999", b"<", b"\n", b""]
        )
        changed[place : place + rng.randrange(1, 4)] = odd
    return bytes(changed)


@pytest.mark.parametrize("kind", ["csv", "coco", "yolo", "names", "voc"])
def test_odd_annotations_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    """Never with another error than the user's, and never with a data set that is not sound."""
    source, rng = tmp_path / "in", random.Random(kind)
    for n in range(8):
        photo(source / "images" / f"{n}.png", n)
    table = "file,label,xmin,ymin,xmax,ymax\n"
    table += "".join(f"images/{n}.png,{'ab'[n % 2]},1,1,{n + 9},9\n" for n in range(8))
    listed = [(f"images/{n}.png", 1) for n in range(8)]
    files = {
        "csv": {"labels.csv": table},
        "coco": {"annotations.json": coco(listed).replace("empty", "images/0")},
        "yolo": {f"labels/{n}.txt": yolo_lines(n, 1) for n in range(8)},
        "voc": {f"Annotations/{n}.xml": voc(f"{n}.png", n) for n in range(8)},
    }
    files["names"] = files["yolo"] | {"data.yaml": "names: [a, b, dot]\nkpt_shape: [1, 2]\n"}
    for name, text in files[kind].items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    run(source, tmp_path / "whole")
    changed = source / list(files[kind])[-1]
    content = changed.read_bytes()
    for _ in range(20):
        changed.write_bytes(mutated(content, rng))
        with contextlib.suppress(UserError):
            run(source, tmp_path / "out", overwrite=True, classes="a,b")
            check_sound(tmp_path / "out")
