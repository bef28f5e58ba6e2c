"""The projector in a browser: `embedall projector --open` on files that were written from a table."""

import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw
from processes import wait_for
from vector_tables import table

from embedall_spark.schemas import IMAGES, conform
from embedall_spark.visualize import projector

POINTS, SIZE = 40, 16
# The screenshot is kept: build/ is ignored by git.
KEPT = Path(os.environ.get("EMBEDALL_TEST_OUTPUT", Path(__file__).resolve().parents[1] / "build" / "test-output"))
# WebGL is drawn in software; without that flag the points never load.
FLAGS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader"]
FLAGS += ["--window-size=1600,1000", "--hide-scrollbars", "--no-first-run"]

# Elements lie in shadow roots below each other.
WALK = """
const all = (root, name) => [...root.querySelectorAll('*')].flatMap(
    at => [...(at.matches(name) ? [at] : []), ...(at.shadowRoot ? all(at.shadowRoot, name) : [])]);
const app = all(document, 'vz-projector')[0];
const inspector = (all(document, 'vz-projector-inspector-panel')[0] || {}).shadowRoot;
const text = name => app && app.shadowRoot.querySelector(name) && app.shadowRoot.querySelector(name).innerText;
"""
SHEET = """
const known = app && app.dataSet && app.dataSet.spriteAndMetadataInfo, image = known && known.spriteImage;
return image && [image.naturalWidth, image.naturalHeight];
"""
NEIGHBOURS = """
return [...inspector.querySelectorAll('.nn-list .neighbor')].map(
    at => [at.querySelector('.label').innerText, at.querySelector('.value').innerText]);
"""


def missing():
    """Return what this machine lacks to run the test, None where it has all."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        return "needs chromium and chromedriver (apt-get install chromium chromium-driver)"
    absent = [name for name in ("tensorboard", "selenium") if importlib.util.find_spec(name) is None]
    return f"needs {' and '.join(absent)} (pip install)" if absent else None


pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(7).normal(size=(POINTS, SIZE)).astype(np.float32) + 0.4


@pytest.fixture(scope="module")
def folder(spark, matrix, tmp_path_factory):
    """The files of forty ids: the last eight have no picture, and one looks like a number."""
    names = [f"thing {at}" for at in range(POINTS - 1)] + ["007"]
    contents = []
    for at in range(POINTS - 8):
        picture = Image.new("RGB", (96, 96), f"hsl({at * 11}, 70%, 55%)")
        ImageDraw.Draw(picture).ellipse((20, 20, 76, 76), fill="white")
        held = io.BytesIO()
        picture.save(held, "PNG")
        contents.append(held.getvalue())
    data = pa.table({"id": names[: POINTS - 8], "content": pa.array(contents, pa.binary())})
    known = [(name, f"a {name}" if name != "007" else None, f"c{at % 3}") for at, name in enumerate(names)]
    known = spark.createDataFrame(known, "id string, title string, label string")
    made = tmp_path_factory.mktemp("projector")
    vectors = table(spark, names, matrix, range(POINTS, 0, -1))
    projector.write(str(made), vectors, known=known, pictures=conform(spark.createDataFrame(data), IMAGES))
    return made


@pytest.fixture
def board(folder):
    """The command, which shows the folder; its process and the address that it prints."""
    # Where the tests run in the background of a shell, Ctrl-C's signal is ignored, and so it would be here.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from embedall_spark import cli; cli.main()"
    command = [sys.executable, "-u", "-c", code, "projector", "--open", "--output", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        told = ""
        for line in process.stdout:
            told += line
            if found := re.search(r"http://\S+?(?=#)", line):
                break
        else:
            raise AssertionError(told)
        yield process, found[0].rstrip("/")
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    try:
        driver = webdriver.Chrome(options=options, service=service)
    except WebDriverException as error:
        pytest.skip(f"chromium does not start here: {error.msg}")
    driver.set_script_timeout(30)
    yield driver
    driver.quit()


def nearest(matrix, row, count):
    """Return the rows nearest to one by cosine, and their distances."""
    units = matrix.astype(np.float64) / np.linalg.norm(matrix.astype(np.float64), axis=1)[:, None]
    distance = 1 - units @ units[row]
    distance[row] = np.inf
    order = np.argsort(distance)[:count]
    return order, distance[order]


def test_points_pictures_and_neighbours_are_shown(board, browser, matrix):
    process, address = board
    with urllib.request.urlopen(f"{address}/data/plugin/projector/runs", timeout=30) as answer:
        assert json.load(answer) == ["."]
    browser.get(f"{address}/data/plugin/projector/projector_binary.html")

    def ask(script):
        return browser.execute_script(WALK + script)

    # It says "Loading..." and 0 before.
    points = wait_for(lambda: re.fullmatch("[1-9][0-9]*", ask("return text('.numDataPoints')") or ""), 40)
    assert (points[0], ask("return text('.dim')")) == ("40", "16")
    # The points are there before their pictures are; forty tiles of 64 pixels are seven beside each other.
    assert wait_for(lambda: ask(SHEET), 20) == [7 * 64, 7 * 64]
    ask("return all(inspector, 'input')[0]").send_keys("a thing 5")
    # One match shows its neighbours at once; the letters typed before it have many matches, which show none.
    shown = wait_for(lambda: ask(NEIGHBOURS), 20)
    order, distance = nearest(matrix, 5, 6)
    # What looks like a number, the projector shows as one.
    assert [label for label, _ in shown[:6]] == [f"a thing {row}" if row < POINTS - 1 else "7" for row in order]
    np.testing.assert_allclose([float(value) for _, value in shown[:6]], distance, atol=6e-4)
    assert len(shown) == POINTS - 1
    keep(browser)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def keep(browser):
    """Write the screenshot where it outlives the test; points of all colours are on it."""
    KEPT.mkdir(parents=True, exist_ok=True)
    content = wait_for(lambda: colorful(browser.get_screenshot_as_png()), 20, 0.5)
    (KEPT / "projector.png").write_bytes(content)


def colorful(content):
    """Return a picture where at least four of its sixths of the circle of colours are seen, else None."""
    hue, saturation, value = (np.asarray(band) for band in Image.open(io.BytesIO(content)).convert("HSV").split())
    seen = np.bincount((hue // 43)[(saturation > 120) & (value > 120)], minlength=6)
    return content if (seen > 100).sum() >= 4 else None
