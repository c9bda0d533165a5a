"""The report and the app in a real browser: no console errors, no network requests."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium, complaints, missing, requests
from PIL import Image
from small_runs import CLASSES

from stacked_ram.cli.viz import main

ROOT = Path(__file__).parents[2]
no_browser = missing()
no_gradio = "" if importlib.util.find_spec("gradio") else "the package gradio is not installed"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(no_browser), reason=f"no browser: {no_browser}"),
]


def wait_for(condition: Callable[[], object], seconds: float = 180) -> object:
    """Wait until the condition gives something; return it."""
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except StaleElementReferenceException:
            pass
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("report")
    assert main([str(run_folder), "--report", "--out", str(out)]) == 0
    return out / "report.html"


def test_the_report_plays_and_filters_without_network_requests(report):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    with chromium() as driver:
        driver.get(report.as_uri())

        def boxes() -> int:
            return len(driver.find_elements(By.CSS_SELECTOR, "#stage [data-step]"))

        def shown() -> list:
            found = driver.find_elements(By.CSS_SELECTOR, "#photos .thumb")
            return [element for element in found if element.is_displayed()]

        wait_for(lambda: boxes() == 3)
        says = driver.find_element(By.ID, "verdict").get_attribute("data-predicted")
        assert says in CLASSES and says in driver.find_element(By.ID, "verdict").text
        # the slider and the keys
        body = driver.find_element(By.TAG_NAME, "body")
        body.send_keys(Keys.ARROW_LEFT)
        assert boxes() == 2 and "glimpse 2 of 3" in driver.find_element(By.ID, "stepwords").text
        body.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
        assert boxes() == 0
        # playing
        driver.find_element(By.ID, "play").click()
        wait_for(lambda: boxes() == 3, 10)
        name = driver.find_element(By.ID, "name").text
        body.send_keys(Keys.ARROW_DOWN)
        wait_for(lambda: driver.find_element(By.ID, "name").text != name, 10)
        # filters
        count = len(shown())
        Select(driver.find_element(By.ID, "byclass")).select_by_visible_text(CLASSES[0])
        of_class = len(shown())
        assert 0 < of_class < count
        Select(driver.find_element(By.ID, "byclass")).select_by_value("")
        prediction = Select(driver.find_element(By.ID, "byprediction"))
        parts = []
        for kind in ("right", "wrong"):
            prediction.select_by_value(kind)
            parts.append(len(shown()))
        assert sum(parts) == count
        prediction.select_by_value("")
        final = Select(driver.find_element(By.ID, "byfinal"))
        parts = []
        for step in ("1", "2", "3"):
            final.select_by_value(step)
            parts.append(len(shown()))
        assert sum(parts) == count
        # the canvas of what was read is dark elsewhere
        driver.execute_script("go(0)")
        assert fraction_read(driver) == 0
        driver.execute_script("go(3)")
        assert 0 < fraction_read(driver) < 1
        assert complaints(driver) == []
        assert [url for url in requests(driver) if not url.startswith("file:")] == []


def test_the_table_of_the_report_sorts_searches_and_filters(report):
    from selenium.webdriver.common.by import By

    with chromium() as driver:
        driver.get(report.as_uri())
        data = driver.execute_script("return data")
        table = data["table"]
        total = len(table["name"])

        def column(number: int) -> list[str]:
            cells = driver.find_elements(By.CSS_SELECTOR, f"#table td:nth-child({number + 1})")
            return [cell.text for cell in cells if cell.get_attribute("title")]

        def count() -> int:
            return int(driver.find_element(By.ID, "count").text.split()[0])

        wait_for(lambda: count() == total)
        driver.find_elements(By.CSS_SELECTOR, "#table th button")[4].click()
        driver.find_elements(By.CSS_SELECTOR, "#table th button")[4].click()
        order = sorted(range(total), key=lambda row: (-table["confidence"][row], -row))
        assert [name.removeprefix("▣ ") for name in column(0)] == [table["name"][row]
                                                                  for row in order]  # fmt: skip
        head = driver.find_elements(By.CSS_SELECTOR, "#table th")[4]
        assert head.get_attribute("aria-sort") == "descending"
        # a cell of the confusion matrix, and a search in it
        cell = driver.find_element(By.CSS_SELECTOR, "#matrix button")
        label, predicted = map(int, cell.get_attribute("data-cell").split(","))
        cell.click()
        both = list(zip(table["label"], table["predicted"], strict=True))
        rows = [row for row in range(total) if both[row] == (label, predicted)]
        assert count() == len(rows) == len(column(0))
        name = table["name"][rows[0]].rpartition("/")[2]
        driver.find_element(By.ID, "search").send_keys(name)
        assert any(name in found for found in column(0))
        driver.find_element(By.CSS_SELECTOR, "#filters button[type=reset]").click()
        wait_for(lambda: count() == total)
        # a link to a photo and step
        photo = data["photos"][1]["name"]
        driver.execute_script(f"location.hash = 'photo={photo}&step=2'")
        wait_for(lambda: driver.find_element(By.ID, "name").text == photo)
        assert "glimpse 2 of 3" in driver.find_element(By.ID, "stepwords").text
        assert complaints(driver) == []


def fraction_read(driver) -> float:
    """Return the fraction of the canvas that is not dark."""
    return driver.execute_script(
        "const c = document.getElementById('known');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i] !== 18 || d[i + 1] !== 18;"
        "return n / (d.length / 4);"
    )


def test_the_report_fits_a_phone_and_follows_the_systems_dark_mode(report):
    with chromium(390, 844, dark=True) as driver:
        driver.get(report.as_uri())
        wide, room = driver.execute_script(
            "return [document.documentElement.scrollWidth, innerWidth]"
        )
        assert wide <= room == 390
        paper = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert max(int(value) for value in re.findall(r"\d+", paper)[:3]) < 60
        assert complaints(driver) == []


def test_boxes_of_the_report_are_where_the_retina_read(other_run_folder, tmp_path):
    """A marker is painted where the first glimpse reads. In a screenshot, it is inside the
    rectangle of the drawn box."""
    from selenium.webdriver.common.by import By

    from stacked_ram.runs.checkpoint import load_run
    from stacked_ram.viz.records import record_photos

    path = tmp_path / "blank.png"
    Image.fromarray(np.full((24, 32, 3), 40, np.uint8)).save(path)
    run = load_run(other_run_folder, "cpu")
    record = next(record_photos(run, [path]))
    left, top, right, bottom = record.surfaces[0].boxes_TK4[0, 0].astype(int)
    pixels = np.full((24, 32, 3), 40, np.uint8)
    pixels[top:bottom, left:right] = (255, 0, 255)
    Image.fromarray(pixels).save(path)
    again = next(record_photos(run, [path]))
    np.testing.assert_array_equal(again.surfaces[0].boxes_TK4[0], record.surfaces[0].boxes_TK4[0])
    assert main([str(other_run_folder), str(path), "--report", "--out", str(tmp_path)]) == 0
    with chromium() as driver:
        driver.get((tmp_path / "report.html").as_uri())
        wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, "#stage [data-step='1']"))
        driver.execute_script("go(1)")
        place = driver.find_element(By.CSS_SELECTOR, "#stage [data-step='1']").rect
        driver.execute_script("go(0)")
        driver.save_screenshot(str(tmp_path / "page.png"))
    page = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    stage = np.abs(page - [255, 0, 255]).sum(2) < 90
    rows, columns = np.flatnonzero(stage.any(1)), np.flatnonzero(stage.any(0))
    marker = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    box = np.array([place["x"], place["y"], place["x"] + place["width"],
                    place["y"] + place["height"]])  # fmt: skip
    assert np.abs(marker - box).max() <= 3, (marker, box)  # the line is 3 pixels wide


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, run_folder: Path):
    """The URL of the app and the folder of its uploads."""
    if no_gradio:
        pytest.skip(no_gradio)
    home = tmp_path_factory.mktemp("app")
    said = home / "said.txt"
    command = [sys.executable, str(ROOT / "viz.py"), str(run_folder), "--app", "--port", "7869"]
    with open(said, "w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "TMPDIR": str(home)}, cwd=ROOT
        )
    try:
        wait_for(lambda: "open http" in said.read_text() or process.poll() is not None, 400)
        assert process.poll() is None, said.read_text()
        yield re.search(r"http://\S+", said.read_text())[0], home
    finally:
        process.terminate()
        process.wait(60)
    assert not list(home.glob("stacked_ram_app_*")), "the app left uploads"


def photo_input(driver):
    from selenium.webdriver.common.by import By

    found = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, "#photo input[type=file]"), 60)
    return found[0]


def test_the_app_takes_a_photo_and_a_forced_first_location(app, photos, tmp_path):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    address, _ = app
    assert address.startswith("http://127.0.0.1:")
    elsewhere = urllib.request.Request(address, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(elsewhere)
    with chromium(1280, 1200) as driver:
        driver.get(address)

        def verdict() -> str:
            said = driver.find_element(By.ID, "verdict").text
            return said if said.startswith("says") else ""

        photo = tmp_path / "ring.png"
        with Image.open(next((photos / "test" / "ring").iterdir())) as image:
            image.resize((280, 200)).save(photo)
        photo_input(driver).send_keys(str(photo))
        first = wait_for(verdict)
        assert re.match(rf"says ({'|'.join(CLASSES)}) \(", first)
        best = re.match(r"says (\w+)", first)[1]
        assert best in driver.find_element(By.ID, "belief").text.split("\n")

        def picture() -> str:
            return driver.find_element(By.CSS_SELECTOR, "#picture img").get_attribute("src")

        before = picture()
        image = driver.find_element(By.CSS_SELECTOR, "#photo img")
        ActionChains(driver).move_to_element_with_offset(image, 20, -20).click().perform()
        wait_for(lambda: picture() != before and verdict())
        assert complaints(driver) == []
        outside = [url for url in requests(driver) if "127.0.0.1" not in url]
        assert outside == []


def test_the_app_explains_an_invalid_upload(app, tmp_path):
    from selenium.webdriver.common.by import By

    address, _ = app
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"this is no photo")
    with chromium() as driver:
        driver.get(address)
        photo_input(driver).send_keys(str(broken))

        def complaint() -> str:
            found = driver.find_elements(By.CSS_SELECTOR, ".toast-body")
            return " ".join(element.text for element in found)

        words = wait_for(complaint)
        assert "not an image" in words and "/" not in words  # and no path of this machine


def test_uploads_are_limited_in_bytes_and_pixels(tmp_path, monkeypatch):
    from stacked_ram.images import uploads as module
    from stacked_ram.runtime.errors import UserError

    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(photo)
    assert module.check_upload(photo) == 1200
    monkeypatch.setattr(module, "MOST_SIDE", 39)
    with pytest.raises(UserError, match="more than 39 pixels wide or high"):
        module.check_upload(photo)
    with pytest.raises(UserError, match="million pixels"):
        module.check_upload(photo, most_pixels=1000)
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="MB"):
        module.check_upload(photo)
