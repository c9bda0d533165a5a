"""The buttons of report.html in a real browser: they write a CSV that --fixes takes."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest
from chromium import chromium, complaints, missing, requests
from making import by_source, class_folders, encoded_again, problems, run

no_browser = missing()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(no_browser), reason=f"no browser: {no_browser}"),
]

ODD = 'with, comma "and quotes" </script>.jpg'


def downloaded(driver, folder: Path) -> list[list[str]]:
    """Click on the download; return the rows of the CSV."""
    from selenium.webdriver.common.by import By

    driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)}
    )
    driver.find_element(By.ID, "fix-download").click()
    end = time.monotonic() + 30
    while not (folder / "fixes.csv").exists() and time.monotonic() < end:
        time.sleep(0.1)
    with open(folder / "fixes.csv", encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_buttons_write_fixes_that_are_taken(tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    source = class_folders(tmp_path / "in", {"a": 8, "b & c": 8})
    name = ODD.replace("/", "")
    (source / "a" / name).write_bytes(b"no photo")
    encoded_again(source / "a/photo 001.jpg", source / "b & c/alike.jpg")
    run(source, tmp_path / "out")
    with chromium() as driver:
        driver.get((tmp_path / "out/report.html").as_uri())

        def places(file: str) -> list:
            found = driver.find_elements(By.CSS_SELECTOR, ".fix[data-file]")
            return [place for place in found if place.get_attribute("data-file") == file]

        def click(element) -> None:
            driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
            element.click()

        def choose(file: str, kind: str, value: str) -> None:
            select = places(file)[0].find_element(By.CSS_SELECTOR, f"select.fix-{kind}")
            click(select)
            Select(select).select_by_value(value)

        assert not driver.find_element(By.ID, "fix-download").is_enabled()
        click(places(f"a/{name}")[0].find_element(By.CSS_SELECTOR, ".fix-drop"))
        choose("b & c/alike.jpg", "relabel", "a")
        choose("b & c/alike.jpg", "move", "test")
        # dropping replaces the other fixes; a second click takes it back
        choose("a/photo 001.jpg", "move", "valid")
        drop = places("a/photo 001.jpg")[0].find_element(By.CSS_SELECTOR, ".fix-drop")
        click(drop)
        assert drop.get_attribute("aria-pressed") == "true"
        click(drop)
        # a photo of a contact sheet
        tile = driver.find_element(By.CSS_SELECTOR, ".strip .tile")
        shown = tile.get_attribute("title")
        click(tile)
        place = next(p for p in places(shown) if "photo" in p.text)
        click(place.find_element(By.CSS_SELECTOR, ".fix-drop"))
        assert driver.find_element(By.ID, "fix-count").text == "4 fixes"
        expected = [
            ["file", "action"], [f"a/{name}", "drop"], ["b & c/alike.jpg", "relabel to a"],
            ["b & c/alike.jpg", "move to test"], [shown, "drop"],
        ]  # fmt: skip
        assert downloaded(driver, tmp_path) == expected
        assert complaints(driver) == []
        assert [url for url in requests(driver) if not url.startswith("file:")] == []
    run(source, tmp_path / "out", fixes=tmp_path / "fixes.csv", overwrite=True)
    assert set(problems(tmp_path / "out").values()) == {"dropped"}
    assert len(problems(tmp_path / "out")) == 2
    moved = by_source(tmp_path / "out")["b & c/alike.jpg"]
    assert (moved["class"], moved["split"]) == ("a", "test")
    (tmp_path / "fixes.csv").unlink()
    with chromium(390, 844) as driver:  # the new report begins with these fixes
        driver.get((tmp_path / "out/report.html").as_uri())
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 390
        assert downloaded(driver, tmp_path) == expected
        driver.find_element(By.ID, "fix-clear").click()
        assert driver.find_element(By.ID, "fix-count").text == "0 fixes"
        assert not driver.find_element(By.ID, "fix-download").is_enabled()
        assert complaints(driver) == []
