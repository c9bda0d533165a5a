"""Sources of Hugging Face (image folders, Parquet files) and WebDataset shards."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from making import by_source, check_sound, dataset_info, jpeg, picture, problems, run, save
from PIL import Image

from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.pipeline import prepare
from stacked_ram.runtime.errors import UserError

NAMES = ("cat", "dog")


def rows_of(count: int, first: int = 0) -> list[tuple[bytes, int]]:
    return [(jpeg(picture(first + n), quality=95), n % 2) for n in range(count)]


def write_parquet(path: Path, rows: list[tuple[bytes | None, object]], **more) -> Path:
    """Write a Parquet file as the library `datasets` does."""
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    label = more.get("label", {"names": list(NAMES), "_type": "ClassLabel"})
    features = {"image": {"_type": "Image"}, "label": label}
    image = [{"bytes": content, "path": f"photo {n}.jpg"} for n, (content, _) in enumerate(rows)]
    table = arrow.table({"image": image, "label": [label for _, label in rows]})
    if label is not None:
        info = {"info": {"features": features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=5)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def samples(rows: list[tuple[bytes, int]]) -> dict[str, bytes]:
    files = {}
    for number, (content, label) in enumerate(rows):
        files[f"{number:05d}.jpg"] = content
        files[f"{number:05d}.cls"] = str(label).encode()
    return files


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_image_folder_with_a_metadata_file_in_each_split(tmp_path: Path, ending: str) -> None:
    for split, count, first in [("train", 16, 0), ("validation", 4, 100), ("test", 4, 200)]:
        folder = tmp_path / "in" / split
        lines = []
        for number in range(count):
            save(picture(first + number), folder / f"images/{number}.jpg")
            lines.append((f"images/{number}.jpg", NAMES[number % 2]))
        if ending == "csv":
            text = "file_name,label\n" + "".join(f"{name},{label}\n" for name, label in lines)
        else:
            text = "".join(
                json.dumps({"file_name": name, "label": label, "note": None}) + "\n"
                for name, label in lines
            )
        (folder / f"metadata.{ending}").write_text(text, encoding="utf-8")
    info = run(tmp_path / "in", tmp_path / "out")
    assert info["layout"] == "metadata"
    assert info["counts"]["train"] == {"cat": 8, "dog": 8}
    assert info["counts"]["valid"] == {"cat": 2, "dog": 2}
    row = by_source(tmp_path / "out")["test/images/3.jpg"]
    assert (row["class"], row["split"]) == ("dog", "test")
    check_sound(tmp_path / "out")


def test_json_lines_with_a_fault_name_the_line(tmp_path: Path) -> None:
    save(picture(0), tmp_path / "in/a.jpg")
    (tmp_path / "in/metadata.jsonl").write_text('{"file_name": "a.jpg", "label": "x"}\n{"file')
    with pytest.raises(UserError, match=r"metadata\.jsonl: line 2: not JSON"):
        run(tmp_path / "in", tmp_path / "out")


def test_parquet_files_of_several_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/data/train-00000-of-00002.parquet", rows_of(12))
    write_parquet(tmp_path / "in/data/train-00001-of-00002.parquet", rows_of(8, 100))
    write_parquet(tmp_path / "in/data/test-00000-of-00001.parquet", rows_of(6, 200))
    (tmp_path / "in/README.md").write_text("a data set")
    dest = tmp_path / "out"
    info = run(tmp_path / "in", dest)
    assert info["counts"]["test"] == {"cat": 3, "dog": 3}
    assert sum(info["counts"][split]["cat"] for split in ("train", "valid")) == 10
    row = by_source(dest)["data-train-00001-of-00002/000003-photo 3.jpg"]
    assert row["class"] == "dog"
    assert (dest / row["path"]).read_bytes() == jpeg(picture(103), quality=95)
    check_sound(dest)
    again = prepare(PrepareOptions(source=tmp_path / "in", dest=dest, workers=1))
    assert again.unchanged


def test_a_plain_parquet_file(tmp_path: Path) -> None:
    """Bytes and names of classes, without the schema of Hugging Face."""
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    buffer = io.BytesIO()
    picture(50).save(buffer, "PNG")
    rows = [*rows_of(11), (buffer.getvalue(), 0)]
    table = arrow.table(
        {"img": [content for content, _ in rows], "class": [NAMES[n] for _, n in rows],
         "width": [48] * 12}
    )  # fmt: skip
    parquet.write_table(table, tmp_path / "photos.parquet")
    info = run(tmp_path / "photos.parquet", tmp_path / "out")
    assert info["classes"] == ["cat", "dog"]
    assert by_source(tmp_path / "out")["photos/000011.png"]["repairs"] == ""
    check_sound(tmp_path / "out")


def test_lists_of_labels_in_parquet_and_webdataset(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    lists = [[0], [1], [0, 1], []]
    photos = [(content, lists[n % 4]) for n, (content, _) in enumerate(rows_of(24))]
    several = {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": list(NAMES)}}
    write_parquet(tmp_path / "a.parquet", photos, label=several)
    files = {}
    for number, (content, labels) in enumerate(photos):
        files[f"{number}.jpg"] = content
        files[f"{number}.json"] = json.dumps({"labels": [NAMES[n] for n in labels]}).encode()
    write_tar(tmp_path / "b.tar", files)
    for source in ("a.parquet", "b.tar"):
        info = run(tmp_path / source, tmp_path / f"{source} out", multi_label=True)
        assert info["classes"] == ["cat", "dog"]
        found = sorted(row["labels"] for row in by_source(tmp_path / f"{source} out").values())
        assert found == sorted(["cat", "dog", "cat|dog", ""] * 6)
    with pytest.raises(UserError, match="a list of labels: give --multi-label"):
        run(tmp_path / "a.parquet", tmp_path / "out")


def test_an_empty_cell_is_one_quarantined_photo(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [*rows_of(12), (b"", 0), (b"no photo", 1)])
    run(tmp_path / "a.parquet", tmp_path / "out")
    assert problems(tmp_path / "out") == {
        "000012-photo 12.jpg": "empty", "000013-photo 13.jpg": "not_an_image",
    }  # fmt: skip


def test_parquet_files_that_cannot_be_used(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    def refusal(path: Path, match: str) -> None:
        with pytest.raises(UserError, match=match):
            run(path, tmp_path / "out")
        assert not list(tmp_path.glob(".out*"))

    whole = write_parquet(tmp_path / "whole.parquet", rows_of(12)).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    refusal(tmp_path / "cut.parquet", r"cut\.parquet: broken Parquet file")
    parquet.write_table(arrow.table({"a": [1], "label": [0]}), tmp_path / "numbers.parquet")
    refusal(tmp_path / "numbers.parquet", r"no column of images \(its columns are a, label\)")
    parquet.write_table(arrow.table({"image": [b"x"], "b": [0]}), tmp_path / "unlabelled.parquet")
    refusal(tmp_path / "unlabelled.parquet", r"no column of labels \(its columns are image, b\)")
    write_parquet(tmp_path / "hidden.parquet", [(content, -1) for content, _ in rows_of(3)])
    refusal(tmp_path / "hidden.parquet", "row 0: label -1 has no name")
    write_parquet(tmp_path / "paths.parquet", [*rows_of(3), (None, 1)])
    refusal(tmp_path / "paths.parquet", r"row 3: has the path of its photo \(photo 3\.jpg\)")


def test_without_pyarrow_the_user_learns_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"pip install -r requirements-parquet\.txt"):
        run(tmp_path / "a.parquet", tmp_path / "out")


def test_webdataset_shards(tmp_path: Path) -> None:
    """The keys of different shards may be equal."""
    write_tar(tmp_path / "in/train-000000.tar", samples(rows_of(12)))
    write_tar(tmp_path / "in/train-000001.tar", samples(rows_of(8, 100)))
    write_tar(tmp_path / "in/test-000000.tar", samples(rows_of(6, 200)))
    (tmp_path / "in/classnames.txt").write_text("cat\ndog\n")
    dest = tmp_path / "out"
    info = run(tmp_path / "in", dest)
    assert info["classes"] == ["cat", "dog"]
    assert info["counts"]["test"] == {"cat": 3, "dog": 3}
    assert sum(info["counts"][split]["dog"] for split in ("train", "valid")) == 10
    row = by_source(dest)["train-000001/00003.jpg"]
    assert (dest / row["path"]).read_bytes() == jpeg(picture(103), quality=95)
    check_sound(dest)


def test_one_webdataset_tar_with_labels_in_json(tmp_path: Path) -> None:
    files = {}
    for number, (content, label) in enumerate(rows_of(12)):
        key = f"{NAMES[label]}.v1/{number}"
        files[f"{key}.jpeg"] = content
        files[f"{key}.seg.png"] = b"a mask"
        files[f"{key}.json"] = json.dumps({"label": NAMES[label], "width": 48}).encode()
    write_tar(tmp_path / "birds.tar", files)
    info = run(tmp_path / "birds.tar", tmp_path / "out")
    assert (info["layout"], info["classes"]) == ("metadata", ["cat", "dog"])
    assert dataset_info(tmp_path / "out")["left_out"] == {}
    assert len(by_source(tmp_path / "out")) == 12


def test_a_sample_without_a_label_is_named(tmp_path: Path) -> None:
    files = samples(rows_of(12))
    del files["00007.cls"]
    write_tar(tmp_path / "a.tar", files)
    with pytest.raises(UserError, match=r"a\.tar: sample '00007': has no label"):
        run(tmp_path / "a.tar", tmp_path / "out")
    write_tar(tmp_path / "in/a.tar", samples(rows_of(12)))
    (tmp_path / "in/classes.txt").write_text("cat\n")
    with pytest.raises(UserError, match=r"sample '00001': label 1 has no line in .*classes\.txt"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_tar_of_class_folders_is_no_shard(tmp_path: Path) -> None:
    """Programs that draw boxes put a .json beside each photo."""
    files = {}
    for number, (content, label) in enumerate(rows_of(12)):
        files[f"{NAMES[label]}/{number}.jpg"] = content
        files[f"{NAMES[label]}/{number}.json"] = b'{"shapes": [], "imagePath": "1.jpg"}'
    write_tar(tmp_path / "a.tar", files)
    info = run(tmp_path / "a.tar", tmp_path / "out")
    assert info["layout"] == "class_folders"


def test_a_shard_with_a_photo_that_turns_out_damaged(tmp_path: Path) -> None:
    content = jpeg(picture(70, (400, 300)), quality=95)
    files = samples([*rows_of(12), (content[: len(content) // 2], 1)])
    write_tar(tmp_path / "a.tar", files)
    run(tmp_path / "a.tar", tmp_path / "out")
    assert problems(tmp_path / "out") == {"00012.jpg": "truncated"}
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (400, 300)
