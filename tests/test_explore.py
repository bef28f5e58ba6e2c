"""The page of ``embedall explore``: its answers, its guards, and every control in a browser. Without Spark."""

import io
import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pyarrow as pa
import pytest
from cli_runner import embedall
from deltalake import CommitProperties, write_deltalake
from PIL import Image
from test_projector_browser import KEPT, browser, missing  # noqa: F401

from embedall_spark import config
from embedall_spark.cli.explore import server, space
from embedall_spark.images import featurize
from embedall_spark.kinds import images
from embedall_spark.vectors import to_column, unit

COUNT, D, TOKEN = 60, 8, "token"
EVIL = "<img src=x onerror=document.body.dataset.evil=1>"


@pytest.fixture(scope="module")
def matrix():
    centers = np.random.default_rng(3).normal(size=(3, D))
    noise = np.random.default_rng(4).normal(size=(COUNT, D))
    return (centers[np.arange(COUNT) % 3] + 0.4 * noise).astype(np.float32)


def write(path, matrix, commit):
    ids = [f"{row}.png" for row in range(len(matrix))]
    rows = {"id": ids, "vector": to_column(matrix), "norm": np.ones(len(ids)), "count": pa.nulls(len(ids), pa.int64())}
    rows |= {"kind": ["images"] * len(ids), "run_id": ["r"] * len(ids)}
    properties = CommitProperties(custom_metadata={"userMetadata": json.dumps(commit)})
    write_deltalake(str(path), pa.table(rows), commit_properties=properties, mode="overwrite")


@pytest.fixture(scope="module")
def place(matrix, tmp_path_factory):
    """Return a folder with a table of pictures as 'embedall images' leaves it, in two versions, and titles."""
    folder = tmp_path_factory.mktemp("explore")
    (folder / "pictures").mkdir()
    for row in range(COUNT - 5):
        Image.new("RGB", (60, 60), f"hsl({row * 6}, 70%, 55%)").save(folder / "pictures" / f"{row}.png")
    (folder / "run").mkdir()
    run = config.parse(
        images.Config,
        {"input": {"path": str(folder / "pictures")}, "output": {"table": str(folder / "things")}},
    )
    (folder / "run" / "config.yaml").write_text(config.dump(run))
    commit = {"run_id": "r", "kind": "images", "run_folder": str(folder / "run")}
    write(folder / "things", matrix[::-1].copy(), commit)
    write(folder / "things", matrix, commit)
    titles = [EVIL if row == 1 else f"thing {row}" for row in range(COUNT)]
    labels = [f"c{row % 3}" for row in range(COUNT)]
    ids = [f"{row}.png" for row in range(COUNT)]
    write_deltalake(str(folder / "things_metadata"), pa.table({"id": ids, "title": titles, "label": labels}))
    return folder


@pytest.fixture(scope="module")
def address(place, matrix):
    """Return the address of the page; dropped pictures have the vector of row 7."""
    dropped = {}
    spaces = [space.open_space(name, 1.0, dropped) for name in (f"{place}/things", f"{place}/things@0")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(featurize, "featurize_one", lambda *_: matrix[7])
        with server.listening(server.application(spaces, TOKEN), "127.0.0.1", 0) as (run, port):
            threading.Thread(target=run, daemon=True).start()
            yield f"http://127.0.0.1:{port}/{TOKEN}/"


def nearest(matrix, query, without=()):
    scores = unit(matrix.astype(np.float64)) @ (query / np.linalg.norm(query))
    return [f"{row}.png" for row in np.argsort(-scores, kind="stable") if row not in without]


def test_answers_are_numpys(place, matrix):
    shown = space.open_space(f"{place}/things", 1.0)
    units = unit(matrix.astype(np.float64))
    chips = [{"sign": 1, "id": "3.png"}, {"sign": -1, "id": "4.png"}]
    hits = shown.ask(chips, "", "", 10)
    assert [hit["id"] for hit in hits] == nearest(matrix, units[3] - units[4], (3, 4))[:10]
    filtered = shown.ask(chips[:1], "label = 'c1'", "images", 5)
    assert [hit["id"] for hit in filtered] == [
        name for name in nearest(matrix, units[3], (3,)) if int(name.partition(".")[0]) % 3 == 1
    ][:5]
    rows, places = shown.points
    assert (len(rows), places.shape, np.abs(places).max() <= 1) == (COUNT, (COUNT, 2), True)
    assert shown.colors["label"][0] == ["c0", "c1", "c2"]
    assert shown.resolve("thing 9")["id"] == "9.png"
    assert Image.open(io.BytesIO(shown.picture("3.png"))).size == (60, 60)
    assert shown.picture(f"{COUNT - 1}.png") is None
    assert "has no rows" not in shown.about()


def test_the_map_has_the_places_that_the_metadata_know(place, matrix, tmp_path):
    write(tmp_path / "mapped", matrix, {"run_id": "r"})
    known = np.random.default_rng(2).normal(size=(COUNT, 2)) * [3, 1] + 7
    order = np.random.default_rng(3).permutation(COUNT)
    ids = np.array([f"{row}.png" for row in range(COUNT)])
    columns = {"id": ids[order], "x": known[order, 0], "y": known[order, 1]}
    write_deltalake(str(tmp_path / "mapped_metadata"), pa.table(columns))
    shown = space.open_space(str(tmp_path / "mapped"), 1.0)
    rows, places = shown.points
    names = shown.vectors.columns["id"].to_pylist()
    at = [int(names[row].partition(".")[0]) for row in rows]
    middle = (known.min(axis=0) + known.max(axis=0)) / 2
    np.testing.assert_allclose(places, (known[at] - middle) / np.abs(known - middle).max(), atol=1e-6)
    # Where one place is missing, all are computed.
    write_deltalake(
        str(tmp_path / "mapped_metadata"), pa.table({**columns, "x": [None, *known[1:, 0]]}), mode="overwrite"
    )
    pca = space.open_space(f"{place}/things", 1.0).points[1]
    np.testing.assert_allclose(space.open_space(str(tmp_path / "mapped"), 1.0).points[1], pca)
    # A map that a run has stored is of this run's version.
    for run_id, mapped in (("another", pca), ("r", places)):
        properties = CommitProperties(custom_metadata={"userMetadata": json.dumps({"run_id": run_id})})
        stored = pa.table({**columns, "x": known[order, 0], "y": known[order, 1]})
        write_deltalake(str(tmp_path / "mapped_map"), stored, commit_properties=properties, mode="overwrite")
        np.testing.assert_allclose(space.open_space(str(tmp_path / "mapped"), 1.0).points[1], mapped, atol=1e-6)


def test_only_who_has_the_token_reads(address):
    def status(url, **headers):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
                return answer.status, answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.headers

    for _ in range(50):
        try:
            code, headers = status(address)
            break
        except urllib.error.URLError:
            threading.Event().wait(0.1)
    assert code == 200 and "default-src 'none'" in headers["Content-Security-Policy"]
    assert status(address.replace(TOKEN, "wrong"))[0] == 404
    assert status(f"{address}tables", Host="evil.example")[0] == 400
    assert status(f"{address}page/..%2fserver.py")[0] == 404
    assert status(f"{address}picture?table=0&id=..%2f..%2fetc%2fpasswd")[0] == 404
    assert status(f"{address}resolve?table=7&text=x")[0] == 400


def test_errors_say_what_to_do(place, tmp_path):
    twice = embedall("explore", place / "things", place / "things")
    assert (twice.code, "given twice" in twice.log) == (2, True)
    absent = embedall("explore", "catalog.schema.table")
    assert (absent.code, "named in a catalog" in absent.log) == (2, True)


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_every_control(address, browser, matrix, tmp_path):  # noqa: F811
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select
    from selenium.webdriver.support.wait import WebDriverWait

    wait, units = WebDriverWait(browser, 30), unit(matrix.astype(np.float64))

    def find(name):
        return browser.find_element(By.ID, name)

    def hits(place=0):
        script = "return [...document.querySelectorAll('#hits%d .hit small')].map(at => at.textContent.split(' · ')[1])"
        return browser.execute_script(script % place)

    def shows(names, place=0):
        wait.until(lambda _: hits(place)[: len(names)] == names, f"{hits(place)[:5]}, not {names}")

    browser.get(address)
    wait.until(lambda _: browser.execute_script("return document.body.dataset.ready"))
    # The keyboard: / leads to the words, Enter adds.
    browser.find_element(By.TAG_NAME, "body").send_keys("/")
    browser.switch_to.active_element.send_keys("thing 3", Keys.ENTER)
    shows(nearest(matrix, units[3], (3,))[:5])
    find("text").send_keys("4.png")
    find("minus").click()
    difference = nearest(matrix, units[3] - units[4], (3, 4))
    shows(difference[:5])
    loaded = "return [...document.querySelectorAll('.hit img')].some(at => at.naturalWidth === 60)"
    wait.until(lambda _: browser.execute_script(loaded))
    # Titles are text: that of row 1 would run a script.
    find("text").send_keys("nothing like it", Keys.ENTER)
    wait.until(lambda _: "neither an id nor a title" in find("error").text)
    Select(find("kind")).select_by_value("images")
    find("where").send_keys("label = 'c1'", Keys.ENTER)
    shows([name for name in difference if int(name.partition(".")[0]) % 3 == 1][:3])
    assert (
        browser.execute_script("return document.body.dataset.evil || document.querySelectorAll('.name img').length")
        == 0
    )
    # Another version of the table beside it, whose rows are in reverse order.
    Select(find("second")).select_by_index(2)
    wait.until(lambda _: hits(1))
    assert hits(1) != hits(0)
    KEPT.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(KEPT / "explore.png"))
    link, expected = browser.current_url, (hits(0), hits(1))
    # What a link says is seen again.
    browser.get("about:blank")
    browser.get(link)
    wait.until(lambda _: (hits(0), hits(1)) == expected)
    assert find("where").get_attribute("value") == "label = 'c1'"
    find("where").clear()
    find("where").send_keys(Keys.ENTER)
    shows(difference[:5])
    browser.find_element(By.CSS_SELECTOR, ".chip.minus").click()
    shows(nearest(matrix, units[3], (3,))[:5])
    # A picture.
    Image.new("RGB", (9, 9)).save(tmp_path / "mine.png")
    find("file").send_keys(str(tmp_path / "mine.png"))
    shows(nearest(matrix, units[7])[:5])
    shows(nearest(matrix[::-1], units[7])[:5], 1)
    # The map: colors, zoom and movement by mouse and keyboard, a point under the pointer.
    Select(find("color")).select_by_value("label")
    assert [row.text for row in find("legend").find_elements(By.TAG_NAME, "li")] == ["c0", "c1", "c2"]
    view, linked = "return map.view", "return JSON.parse(decodeURIComponent(location.hash.slice(1))).view"
    find("map").send_keys(Keys.ARROW_LEFT, "+")
    x, _, zoom = browser.execute_script(view)
    assert x < 0 and zoom > 1
    browser.execute_script("arguments[0].scrollIntoView()", find("map"))
    ActionChains(browser).move_to_element(find("map")).click_and_hold().move_by_offset(40, 10).release().perform()
    assert browser.execute_script(view)[0] < x
    wait.until(lambda _: browser.execute_script(linked) == browser.execute_script(view))
    find("whole").click()
    assert browser.execute_script(view) == [0, 0, 1]
    px, py = browser.execute_script("return map.pixel(5)")
    size = find("map").size
    offset = round(px - size["width"] / 2), round(py - size["height"] / 2)
    ActionChains(browser).move_to_element_with_offset(find("map"), *offset).perform()
    wait.until(lambda _: find("tiptext").text != "")
    named = find("tiptext").text.rpartition("[")[2].rstrip("]")
    wait.until(lambda _: find("tippicture").is_displayed() or int(named.partition(".")[0]) >= COUNT - 5)
    browser.save_screenshot(str(KEPT / "explore-map.png"))
    ActionChains(browser).click().perform()
    shows(nearest(matrix, units[int(named.partition(".")[0])], (int(named.partition(".")[0]),))[:3])
    # A narrow window needs no scrolling to the side.
    browser.set_window_size(420, 800)
    browser.save_screenshot(str(KEPT / "explore-narrow.png"))
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    Select(find("table")).select_by_index(1)
    wait.until(lambda _: browser.execute_script("return document.body.dataset.ready").endswith("@0"))
