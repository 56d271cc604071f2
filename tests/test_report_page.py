"""report.html in a real browser: what it counts, filters and shows is what Python computes."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mxrcnn.cli import main as mxrcnn
from mxrcnn.config import DataConfig
from mxrcnn.data.records import Detections
from mxrcnn.evaluation.confusion import confusion
from mxrcnn.evaluation.core import evaluate
from mxrcnn.evaluation.page.content import LEAST_SCORE, Shown, content, losses, picture
from mxrcnn.evaluation.page.write import write_page
from tests.factories import make_dataset, make_record
from tests.test_errors import TIDE, read

#: names that would do something if they were HTML, or end the script
EVIL = ("<b>bold</b>", "</script><script>alert(1)</script>", '"&quot;<!--')
SWITCHES = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
).split()


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; without it the test skips, and fails under CI."""
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(paths):
        reason = "no chromium and chromedriver (Debian: chromium, chromium-driver)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for switch in SWITCHES:
        options.add_argument(switch)
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A test with crowds, names of classes and files that look like HTML, and a damaged file."""
    folder = tmp_path_factory.mktemp("page")
    dataset, detections = read(TIDE[1])
    records = []
    for number, record in enumerate(dataset.records):
        path = folder / f"<img src=x onerror=alert({number})>.png"
        pixels = np.random.default_rng(number).integers(0, 255, (200, 200, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        records.append(replace(record, path=path))
    records[3].path.write_bytes(b"no image")
    dataset = replace(make_dataset(records), class_names=EVIL)
    report = evaluate(dataset, detections, "coco").to_json()
    log = [{"kind": "train", "step": k, "TotalLoss": 1 / k} for k in range(1, 900)]
    return Shown("<i>run</i>", dataset, detections, report, DataConfig(), log, ["mxrcnn test x"])


@pytest.fixture(scope="module")
def page(shown, browser):
    """The page, open in the browser."""
    folder = shown.dataset.records[0].path.parent
    write_page(content(shown, folder), folder / "report.html")
    browser.set_window_size(1200, 900)
    browser.get((folder / "report.html").as_uri())
    return browser


def rounded(shown):
    """Data set and detections with the digits that the page has."""
    records = [replace(r, boxes=np.round(r.boxes, 1)) for r in shown.dataset.records]
    found = {}
    for image, d in shown.detections.items():
        d = d[d.scores >= LEAST_SCORE]
        found[image] = Detections(np.round(d.boxes, 1), np.round(d.scores, 4), d.classes)
    return replace(shown.dataset, records=tuple(records)), found


def set_value(page, name, value):
    page.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind));",
        *(name, str(value)),
    )


def text(page, name):
    return page.find_element("id", name).text


def no_errors(page):
    assert page.get_log("browser") == []


@pytest.mark.parametrize(("score", "least"), [(0.05, 0.5), (0.4, 0.3), (0.73, 0.75), (1, 0.5)])
def test_sliders_count_as_python(page, shown, score, least):
    set_value(page, "iou", least)
    set_value(page, "score", score)
    rows = page.find_elements("css selector", "#confusion tbody tr")
    table = [[c.text for c in row.find_elements("css selector", "td, th")[1:]] for row in rows]
    want = confusion(*rounded(shown), score, least)
    order = [1, 2, 3, 0]
    assert table == [[str(want[k, m]) if k or m else "" for m in order] for k in order]
    set_value(page, "kind", "not found")
    assert text(page, "count").endswith(f" {want[1:].sum() - np.trace(want[1:, 1:])} boxes")
    set_value(page, "kind", "any")
    no_errors(page)


@pytest.mark.parametrize(
    ("number", "kind", "size"),
    [(0, "any", "any"), (2, "right", "any"), (0, "background", "medium"), (1, "object", "small")],
)
def test_filters_select_as_python(page, shown, number, kind, size):
    set_value(page, "score", 0.3)
    for name, value in (("class", number), ("kind", kind), ("size", size)):
        set_value(page, name, value)
    low, high = {"any": (0, 1e9), "small": (0, 1024), "medium": (1024, 9216)}[size]
    images, boxes = 0, 0
    for image in content(shown, shown.dataset.records[0].path.parent)["images"]:
        rows = image["objects"] if kind == "object" else image["detections"]
        fits = [
            row
            for row in rows
            if (not number or row[4] == number)
            and low <= (row[2] - row[0]) * (row[3] - row[1]) < high
            and (kind == "object" or row[5] >= 0.3)
            and kind in ("any", "object", row[-1])
        ]
        boxes += len(fits)
        images += bool(fits) or (number, kind, size) == (0, "any", "any")
    assert boxes
    assert text(page, "count") == f"{images} images, {boxes} boxes"
    for name, value in (("class", 0), ("kind", "any"), ("size", "any")):
        set_value(page, name, value)
    no_errors(page)


def test_names_are_text(page, shown):
    cells = page.find_elements("css selector", "#classes tbody th")
    assert [cell.text for cell in cells] == list(EVIL)
    assert text(page, "title") == "<i>run</i>"
    inside = "return document.querySelectorAll('main b, main i, main script, header i').length"
    assert page.execute_script(inside) == 0
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    no_errors(page)


def test_by_keyboard_alone(page):
    """Tab to an image, open it, go on and back, move the threshold, close it."""
    from selenium.webdriver import ActionChains, Keys

    def press(*keys):
        ActionChains(page).send_keys(*keys).perform()

    def focused(what):
        return page.execute_script(f"return document.activeElement.{what}")

    page.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    seen = []
    while not page.execute_script("return document.activeElement.closest('#gallery')"):
        press(Keys.TAB)
        seen.append(focused("id"))
        assert len(seen) < 40
    assert {"score", "iou", "class", "kind", "size", "order"} <= set(seen)
    press(Keys.ENTER)
    assert "(1 of 40)" in text(page, "viewer-name")
    press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert "(2 of 40)" in text(page, "viewer-name")
    boxes = len(page.find_elements("css selector", "#stage rect"))
    while focused("id") != "viewer-score":
        press(Keys.TAB)
    press(Keys.HOME)
    assert text(page, "viewer-score-value") == "0.05"
    assert len(page.find_elements("css selector", "#stage rect")) > boxes
    press(Keys.ESCAPE)
    assert not page.execute_script("return document.getElementById('viewer').open")
    assert text(page, "score-value") == "0.05"
    no_errors(page)


@pytest.mark.parametrize("width", [320, 1024, 3840])
def test_no_width_needs_sideways_scrolling(page, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page, scheme):
    """WCAG AA: 4.5 for all text colours on both backgrounds."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    style = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])"

    def luminance(name):
        colour = page.execute_script(style, f"--{name}").strip().lstrip("#")
        colour = "".join(c * 2 for c in colour) if len(colour) == 3 else colour
        share = np.array([int(colour[k : k + 2], 16) for k in (0, 2, 4)]) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for front in ("text", "faint", "object", "missed", "right", "wrong"):
        for back in ("back", "panel"):
            high, low = sorted((luminance(front), luminance(back)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)


def test_what_is_left_out_is_said(shown, tmp_path):
    made = content(shown, tmp_path)
    low = sum(int((d.scores < LEAST_SCORE).sum()) for d in shown.detections.values())
    assert low
    assert f"{low} detections with scores below 0.05 are not in this page" in made["notes"]
    assert any(note.startswith("1 images have no picture here") for note in made["notes"])
    assert "no image" not in made["images"][3].get("picture", "")
    assert made["images"][3]["problem"]


def test_pictures_fit_their_share():
    pixels = np.random.default_rng(0).integers(0, 255, (800, 1000, 3), np.uint8)  # as bad as can be
    assert len(picture(pixels, 18_000)) <= 18_000
    assert len(picture(np.zeros((800, 1000, 3), np.uint8), 18_000)) < 18_000


def test_long_logs_are_thinned():
    log = [{"kind": "train", "step": k, "ALoss": k, "B": 1} for k in range(1000)]
    log[0]["ALoss"] = None
    (name, points), *rest = losses(log).items()
    assert (name, len(points), points[-1], rest) == ("ALoss", 199, [999, 999], [])


def test_empty(tmp_path, browser):
    """No images, no objects, no detections, no report.json: a page all the same."""
    for records in ([], [make_record(boxes=[], path=tmp_path / "none.jpg")]):
        shown = Shown("empty", make_dataset(records), {}, {}, DataConfig())
        write_page(content(shown, tmp_path), tmp_path / "report.html")
        assert (tmp_path / "report.html").stat().st_size < 60_000
        browser.get((tmp_path / "report.html").as_uri())
        assert text(browser, "count") == f"{len(records)} images, 0 boxes"
        no_errors(browser)


def test_the_command(shown, tmp_path, capsys):
    """From a file of COCO results and its data."""
    results = tmp_path / "r.json"
    results.write_text("[]")
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 200, "height": 200}],
        "annotations": [],
        "categories": [{"id": 1, "name": "dog"}],
    }
    Image.new("RGB", (200, 200)).save(tmp_path / "a.jpg")
    (tmp_path / "t.json").write_text(json.dumps(truth))
    words = ["report", str(results), "--data", str(tmp_path / "t.json")]
    assert mxrcnn(words) == 0
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(SystemExit, match="1"):
        mxrcnn(words)
    assert "report.json: not a report but list" in capsys.readouterr().err
    (tmp_path / "report.json").unlink()
    assert mxrcnn(words) == 0
    assert (tmp_path / "report.html").is_file()
    assert "open it in a browser" in capsys.readouterr().out
