"""The report as a tool to find out why a model fails: causes, contrast, 10,000 rows, Firefox."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import chromium
import firefox
import numpy as np
import pytest
from test_whole_set import random_records

from stacked_ram.cli.viz import main
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.viz.mistakes import causes_of_mistakes
from stacked_ram.viz.photos import Split
from stacked_ram.viz.whole_set import record_split

ROWS = 10_000
DATA = re.compile(r'(?<=id="data">).*?(?=</script>)', re.S)
needs_chromium = pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing())
needs_firefox = pytest.mark.skipif(bool(firefox.missing()), reason=firefox.missing())
COLUMNS = ("path", "cause", "predicted", "better_place", "best_glimpse", "best_x", "best_y",
           "best_belief_true")  # fmt: skip


@pytest.fixture(scope="module")
def mistakes(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A report of a run whose mistakes have causes, and the names of the mistakes."""
    run = tmp_path_factory.mktemp("mistakes") / "run"
    shutil.copytree(run_folder, run)
    with Split(load_run(run, "cpu")) as split:
        whole = record_split(load_run(run, "cpu"), split)
    wrong = [row for row in range(len(whole.names)) if not whole.right_N[row]]
    assert len(wrong) >= 2 and whole.right_N.any()
    rows = [",".join(COLUMNS)]
    causes = ["never looked there", *["found but not recognised"] * len(wrong)]
    for row, cause in zip(wrong, causes, strict=False):
        predicted = whole.classes[whole.predicted_N[row]]
        rows.append(f"{whole.names[row]},{cause},{predicted},{row == wrong[0]},2,0.5,-0.5,0.8")
    (run / "test_explain.csv").write_text("\n".join(rows) + "\n")
    (run / "test.json").write_text(json.dumps({"explain": {"causes_by": "boxes"}}))
    assert main([str(run), "--report"]) == 0
    return run / "report.html", [whole.names[row] for row in wrong]


def test_every_mistake_has_its_cause_and_a_gallery(mistakes):
    page, wrong = mistakes
    data = json.loads(DATA.search(page.read_text())[0])
    cause_of = dict(zip(data["table"]["name"], data["table"]["cause"], strict=True))
    assert {name for name, cause in cause_of.items() if cause} == set(wrong)
    assert cause_of[wrong[0]] == "never looked there"
    counts = {cause["name"]: (cause["photos"], cause["mended"]) for cause in data["causes"]}
    assert counts["never looked there"] == (1, 1)
    assert counts["found but not recognised"] == (len(wrong) - 1, 0)
    better = data["table"]["better"][data["table"]["name"].index(wrong[0])]
    assert better == [2, 0.5, -0.5, 0.8]
    galleries = {each["title"]: each["photos"] for each in data["galleries"]}
    (photo,) = galleries["Wrong: never looked there"]
    assert data["photos"][photo]["name"] == wrong[0]
    left, top, right, bottom = data["photos"][photo]["object"]
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    assert data["uncaused"] == {"untested": 0, "other": 0}


def test_mistakes_without_a_cause_are_counted_by_the_reason(tmp_path):
    whole = random_records()
    first, second, *rest = np.flatnonzero(~whole.right_N)
    rows = [",".join(COLUMNS)]
    for row, predicted in ((first, whole.predicted_N[first]), (second, whole.labels_N[second])):
        rows.append(f"{row},never looked there,{whole.classes[predicted]},False,1,0,0,0.1")
    (tmp_path / "test_explain.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "test.json").write_text(json.dumps({"explain": {"causes_by": "boxes"}}))
    found = causes_of_mistakes(tmp_path, whole)
    assert found["uncaused"] == {"untested": len(rest), "other": 1}
    assert [cause["photos"] for cause in found["causes"]] == [1, 0, 0]


SCRIPT = (Path(__file__).parent / "report_page.js").read_text()


def check_click(found: dict, wrong: list[str]) -> None:
    """A cause was clicked, and its photo shown."""
    assert found["rows"] == wrong[:1]
    assert found["chosen"].startswith("Chosen: cause: never looked there")
    assert "(never looked there)" in found["verdict"]
    assert found["stars"] == 1 and "with glimpse 2 there instead" in found["words"]
    assert found["objects"] == 1 and found["words"].endswith(
        "Dotted: the object, as the data set says."
    )


def ask(driver: Any, call: str) -> Any:
    driver.set_script_timeout(120)  # seconds, on a busy machine
    return driver.execute_script(f"{SCRIPT} return {call}")


@needs_chromium
@pytest.mark.browser
def test_text_can_be_read_and_controls_have_names_and_a_visible_focus(mistakes):
    from selenium.webdriver.common.keys import Keys

    page, wrong = mistakes
    with chromium.chromium() as driver:
        driver.get(page.as_uri())
        check_click(ask(driver, "clicked()"), wrong)
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            contrasts = ask(driver, "contrasts()")
            assert len(contrasts) > 100 and contrasts[0][0] >= 4.5, (scheme, contrasts[:9])
        assert ask(driver, "unnamed()") == []
        driver.find_element("tag name", "body").send_keys(Keys.TAB)
        focus = "return getComputedStyle(document.activeElement)"
        assert driver.execute_script(f"{focus}.outlineStyle") == "solid"
        assert driver.execute_script(f"{focus}.outlineWidth") == "3px"
        assert chromium.complaints(driver) == []


@pytest.fixture(scope="module")
def many(mistakes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report with a table of 10,000 rows."""
    text = mistakes[0].read_text()
    data = json.loads(DATA.search(text)[0])
    count = len(data["table"]["name"])
    data["table"] = {
        name: [column[row % count] for row in range(ROWS)] for name, column in data["table"].items()
    }
    data["table"]["name"] = [f"{row:05d}.jpg" for row in range(ROWS)]
    page = tmp_path_factory.mktemp("many") / "many.html"
    filled = json.dumps(data).replace("<", "\\u003c")
    page.write_text(DATA.sub(lambda _: filled, text))
    return page


def check_many(found: dict) -> None:
    """Few rows are in the page, all when it is printed; nothing takes long on a busy machine."""
    assert 10 < found["shown"] < 100 and found["middle"] and found["found"] == 1
    assert found["printed"] >= ROWS
    assert found["step"] < 500 and found["sort"] < 2000, found  # milliseconds


@needs_chromium
@pytest.mark.browser
def test_ten_thousand_rows_in_chromium(many):
    with chromium.chromium() as driver:
        driver.get(many.as_uri())
        found = ask(driver, "times()")
        check_many(found)
        assert chromium.complaints(driver) == []


@needs_firefox
@pytest.mark.browser
def test_the_report_in_firefox(mistakes, many):
    page, wrong = mistakes
    with firefox.firefox() as tab:
        tab.open(page.as_uri())
        check_click(tab.run(f"(() => {{ {SCRIPT} return clicked(); }})()"), wrong)
        tab.run("go(2)")
        assert tab.run("document.querySelectorAll('#stage [data-step]').length") == 2
        tab.open(many.as_uri())
        found = tab.run(f"(() => {{ {SCRIPT} return times(); }})()")
        check_many(found)
        assert tab.errors == []
