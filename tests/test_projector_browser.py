"""`embedall projector`: what it writes, and how that looks in a browser when it has opened it."""

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
import pytest
from cli_runner import embedall
from PIL import Image, ImageDraw
from processes import wait_for
from vector_tables import table

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
NEIGHBORS = """
return [...inspector.querySelectorAll('.nn-list .neighbor')].map(
    at => [at.querySelector('.label').innerText, at.querySelector('.value').innerText]);
"""


def missing():
    """Return what this machine lacks to run the test, None where it has all."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        return "needs chromium and chromedriver (apt-get install chromium chromium-driver)"
    absent = [name for name in ("tensorboard", "selenium") if importlib.util.find_spec(name) is None]
    return f"needs {' and '.join(absent)} (pip install)" if absent else None


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(8).normal(size=(POINTS, SIZE)).astype(np.float32) + 0.4


@pytest.fixture(scope="module")
def place(spark, matrix, tmp_path_factory):
    """A table as 'embedall images' leaves it: forty ids, of which the last eight have no picture any more."""
    folder = tmp_path_factory.mktemp("projector")
    for at in range(POINTS - 8):
        picture = Image.new("RGB", (96, 96), f"hsl({at * 11}, 70%, 55%)")
        ImageDraw.Draw(picture).ellipse((20, 20, 76, 76), fill="white")
        (folder / "pictures").mkdir(exist_ok=True)
        picture.save(folder / "pictures" / f"{at}.png")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(
        f"input: {{path: {folder / 'pictures'}, id: name}}\noutput: {{table: {folder / 'things'}}}\n"
    )
    ids = [str(at) for at in range(POINTS)]
    commit = json.dumps({"run_id": "a", "kind": "images", "run_folder": str(folder / "run")})
    vectors = table(spark, ids, matrix, range(POINTS, 0, -1)).coalesce(1)
    vectors.write.format("delta").option("userMetadata", commit).save(str(folder / "things"))
    rows = [(name, f"thing {name}" if name != "39" else "007", ["round"], f"c{int(name) % 3}") for name in ids]
    metadata = spark.createDataFrame(rows, "id string, title string, tags array<string>, label string")
    metadata.write.format("delta").save(str(folder / "things_metadata"))
    return folder


@pytest.fixture(scope="module")
def folder(place):
    """What the command writes of that table alone."""
    result = embedall("projector", place / "things", "--output", place / "made")
    assert result.code == 0, result.log
    assert result.output.splitlines()[0] == "things: 40 points of 16 dimensions, pictures of 64 pixels"
    return place / "made"


def rows(path):
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_the_command_finds_titles_and_pictures_beside_the_table(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "projector_config.pbtxt",
        "things.bytes",
        "things_metadata.tsv",
        "things_sprites.jpg",
    ]
    assert rows(folder / "things_metadata.tsv")[:2] == [
        ["title", "id", "tags", "label", "count"],
        ["thing 0", "0", "round", "c0", "40"],
    ]
    sheet = np.asarray(Image.open(folder / "things_sprites.jpg")).astype(int)
    assert np.abs(sheet[2:8, 2:60] - (217, 61, 61)).max() < 20


def test_two_tables_share_a_space(spark, place, matrix, tmp_path):
    table(spark, ["red", "blue"], matrix[:2]).coalesce(1).write.format("delta").save(str(tmp_path / "words"))
    (tmp_path / "names.csv").write_text("key,title,year\n3,three,1999\nblue,a color,\n")
    (tmp_path / "ids.txt").write_text("3\nblue\n\n")
    options = ["--together", "--names", tmp_path / "names.csv", "--id-column", "key", "--images", place / "pictures"]
    options += ["--ids", tmp_path / "ids.txt", "--id", "red", "--output", tmp_path / "made"]
    result = embedall("projector", place / "things", tmp_path / "words", *options)
    assert result.code == 0, result.log
    assert result.output.startswith("things_words: 3 points of 16 dimensions, pictures of 64 pixels\n")
    actual = rows(tmp_path / "made" / "things_words_metadata.tsv")
    assert actual[0] == ["title", "id", "year", "count", "kind"]
    assert sorted(actual[1:]) == [
        ["a color", "blue", "", "", "words"],
        ["red", "red", "", "", "words"],
        ["three", "3", "1999", "37", "things"],
    ]


def test_errors_say_what_to_do(place, tmp_path, monkeypatch):
    nothing = embedall("projector")
    assert nothing.code == 2 and "give TABLE to write its files, --open" in nothing.log
    empty = embedall("projector", "--open", "--output", tmp_path)
    assert empty.code in (1, 2) and ("write it first" in empty.log or "not installed" in empty.log)
    blank = embedall("projector", "table", "--ids", tmp_path / "none.txt")
    assert blank.code == 2 and "need a text file" in blank.log
    twice = embedall("projector", place / "things", f"{place / 'things'}/", "--output", tmp_path)
    assert twice.code == 2 and "write them to two folders" in twice.log
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    absent = embedall("projector", "--open", "--output", tmp_path)
    assert absent.code == 1 and "pip install 'embedall_spark[projector]'" in absent.log


@pytest.fixture
def board(folder):
    """The command, which shows the folder; its process and the address that it prints."""
    # Where the tests run in the background of a shell, Ctrl-C's signal is ignored, and so it would be here.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from embedall_spark import cli; cli.main()"
    command = [sys.executable, "-u", "-c", code, "projector", "--open", "--output", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output = ""
        for line in process.stdout:
            output += line
            if match := re.search(r"http://\S+?(?=#)", line):
                break
        else:
            raise AssertionError(output)
        yield process, match[0].rstrip("/")
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


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_points_pictures_and_neighbors_are_shown(board, browser, matrix):
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
    ask("return all(inspector, 'input')[0]").send_keys("thing 5")
    # One match shows its neighbors at once; the letters typed before it have many matches, which show none.
    shown = wait_for(lambda: ask(NEIGHBORS), 20)
    order, distance = nearest(matrix, 5, 6)
    # What looks like a number, the projector shows as one.
    assert [label for label, _ in shown[:6]] == [f"thing {row}" if row < POINTS - 1 else "7" for row in order]
    np.testing.assert_allclose([float(value) for _, value in shown[:6]], distance, atol=6e-4)
    assert len(shown) == POINTS - 1
    keep(browser)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def keep(browser):
    """Write the screenshot where it outlives the test; points of all colors are on it."""
    KEPT.mkdir(parents=True, exist_ok=True)
    content = wait_for(lambda: colorful(browser.get_screenshot_as_png()), 20, 0.5)
    (KEPT / "projector.png").write_bytes(content)


def colorful(content):
    """Return a picture where at least four of its sixths of the circle of colors are seen, else None."""
    hue, saturation, value = (np.asarray(band) for band in Image.open(io.BytesIO(content)).convert("HSV").split())
    seen = np.bincount((hue // 43)[(saturation > 120) & (value > 120)], minlength=6)
    return content if (seen > 100).sum() >= 4 else None
