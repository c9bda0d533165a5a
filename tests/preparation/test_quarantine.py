"""Quarantined files can be had in a folder; a run that fails leaves a report of why."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import pytest
from making import class_folders, encoded_again, jpeg, picture, rows, run, summarise, tree_digest

from stacked_ram.cli.prepare import main
from stacked_ram.preparation.quarantine import TABLE
from stacked_ram.runtime.errors import RunFailed, UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    (source / "a/text.jpg").write_text("no photo")
    (source / "b/deep").mkdir()
    (source / "b/deep/cut, off.jpg").write_bytes(jpeg(picture(1, (300, 200)))[:3000])
    return source


def test_quarantined_files_are_copied(tmp_path: Path, source: Path) -> None:
    before = tree_digest(source)
    folder = tmp_path / "more/quarantine"
    summary = summarise(source, tmp_path / "out", quarantine=folder)
    copies = {"not_an_image/a/text.jpg": "a/text.jpg", "truncated/b/deep/cut, off.jpg": ""}
    made = tree_digest(folder)
    assert made.keys() == {*copies, TABLE}
    assert made["not_an_image/a/text.jpg"] == before["a/text.jpg"]
    assert made["truncated/b/deep/cut, off.jpg"] == before["b/deep/cut, off.jpg"]
    table = {row["source"]: row for row in rows(folder, TABLE)}
    assert table["b/deep/cut, off.jpg"]["problem"] == "truncated"
    assert table["b/deep/cut, off.jpg"]["copy"] == "truncated/b/deep/cut, off.jpg"
    assert f"quarantined files: 2, in {folder}" in str(summary)
    assert tree_digest(source) == before
    assert not list(folder.parent.glob(".*"))


def test_a_complete_data_set_gives_its_quarantined_files_too(tmp_path: Path, source: Path) -> None:
    run(source, tmp_path / "out")
    before = tree_digest(tmp_path / "out")
    again = summarise(source, tmp_path / "out", quarantine=tmp_path / "q")
    assert again.unchanged and "quarantined files: 2" in str(again)
    assert tree_digest(tmp_path / "out") == before
    assert len(tree_digest(tmp_path / "q")) == 3
    # an archive is unpacked for it
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in sorted(source.rglob("*.jpg")):
            archive.write(path, path.relative_to(source))
    run(tmp_path / "in.zip", tmp_path / "zipped")
    again = summarise(tmp_path / "in.zip", tmp_path / "zipped", quarantine=tmp_path / "z")
    assert again.unchanged and len(tree_digest(tmp_path / "z")) == 3
    assert not list(tmp_path.glob(".*"))


def test_a_quarantine_is_replaced_and_other_folders_are_refused(
    tmp_path: Path, source: Path
) -> None:
    folder = tmp_path / "q"
    run(source, tmp_path / "out", quarantine=folder)
    (source / "a/text.jpg").unlink()
    run(source, tmp_path / "out", quarantine=folder, overwrite=True)
    assert len(tree_digest(folder)) == 2
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and holds other files"):
        run(source, tmp_path / "out", quarantine=folder)
    assert os.listdir(folder) == ["letter.txt"]
    for place in (source / "q", tmp_path / "out/q", tmp_path):
        with pytest.raises(UserError, match="one holds the other"):
            run(source, tmp_path / "out", quarantine=place)


def test_a_run_that_fails_leaves_its_report(tmp_path: Path, source: Path, capsys) -> None:
    for number in range(6):
        (source / f"b/photo {number + 6:03d}.jpg").write_bytes(b"<script>")
    arguments = [str(source), str(tmp_path / "out"), "--workers", "1"]
    assert main([*arguments, "--strict", "--quarantine", str(tmp_path / "q")]) == 1
    report = tmp_path / "out.failed"
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: --strict:") and error.endswith(f"; see {report}/report.html")
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "out: not prepared" in page and "--strict: " in page and "not_an_image" in page
    assert 'data-file="a/text.jpg"' in page  # with buttons
    assert (tmp_path / "q" / TABLE).is_file()
    fates = {row["source"]: row["fate"] for row in rows(report, "report.csv")}
    assert fates["a/text.jpg"] == "quarantined" and fates["a/photo 000.jpg"] == "usable"
    # it goes when the run succeeds
    assert main(arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "q"]


def test_the_report_of_a_failed_split_shows_what_looks_alike(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 6, "b": 1})
    for number in range(5):
        encoded_again(source / "b/photo 000.jpg", source / f"b/again {number}.jpg")
    with pytest.raises(UserError, match=r"in 1 group.*; see .*out.failed.report.html") as failure:
        run(source, tmp_path / "out")
    assert not isinstance(failure.value, RunFailed)
    page = (tmp_path / "out.failed/report.html").read_text(encoding="utf-8")
    assert "Copies, and photos that look alike" in page and "b/again 0.jpg" in page
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == [
        "in", "out.failed",
    ]  # fmt: skip


def test_a_folder_of_that_name_is_left_alone(tmp_path: Path, source: Path) -> None:
    other = tmp_path / "out.failed"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(RunFailed) as failure:
        run(source, tmp_path / "out", strict=True)
    assert "see " not in str(failure.value)
    assert os.listdir(other) == ["mine.txt"]
    run(source, tmp_path / "out")
    assert os.listdir(other) == ["mine.txt"]


def test_a_failed_run_with_several_labels_leaves_its_report_too(
    tmp_path: Path, source: Path
) -> None:
    lines = [f"{path.relative_to(source)},x y" for path in sorted(source.rglob("photo*.jpg"))]
    (source / "labels.csv").write_text("\n".join(["file,label", *lines, "a/text.jpg,x"]) + "\n")
    with pytest.raises(RunFailed, match=r"--strict: .*see .*report.html"):
        run(source, tmp_path / "out", strict=True, multi_label=True, label_separator=" ")
    page = (tmp_path / "out.failed/report.html").read_text(encoding="utf-8")
    assert "a/text.jpg" in page and "<script" not in page
