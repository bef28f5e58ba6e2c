"""Drawings: pixels by construction, nothing loaded from outside, and what would take hours or end a process refused."""

import io

import numpy as np
import pytest
from PIL import Image

from embedall_spark.images import svg
from embedall_spark.images.decode import BadImage, decode
from embedall_spark.sources.image_limits import Limits

NAMES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
WHITE, RED = [255, 255, 255], [255, 0, 0]


def drawing(inner, attributes='viewBox="0 0 10 10"'):
    return f"<svg {NAMES} {attributes}>{inner}</svg>".encode()


def pixels(content):
    pytest.importorskip("resvg_py")
    return np.asarray(decode(content, Limits(svg=True)))


def reason(content, **limits):
    with pytest.raises(BadImage) as caught:
        decode(content, Limits(**{"svg": True} | limits))
    return str(caught.value)


@pytest.mark.parametrize("start", ["", "\ufeff", "  \n", "<?xml version='1.0'?>\n<!-- by hand -->\n<!DOCTYPE svg>"])
def test_a_drawing_lies_on_white(start):
    actual = pixels(start.encode() + drawing('<rect width="5" height="10" fill="red"/>'))
    assert actual.shape == (svg.EDGE, svg.EDGE, 3)
    assert (actual[:, : svg.EDGE // 2] == RED).all() and (actual[:, svg.EDGE // 2 :] == WHITE).all()


@pytest.mark.parametrize("size", ['viewBox="0 0 10 20"', 'width="10" height="20"', 'width="10px" height="20px"'])
def test_proportions_are_kept(size):
    actual = pixels(drawing('<rect width="100" height="100" fill="red"/>', size))
    assert (actual[:, 64:192] == RED).all() and (actual[:, :64] == WHITE).all() and (actual[:, 192:] == WHITE).all()


def test_extreme_proportions_cost_no_memory():
    assert pixels(drawing('<rect width="9" height="9"/>', 'viewBox="0 0 1 100000000"')).shape == (256, 256, 3)
    assert pixels(drawing('<rect width="9" height="9"/>', 'width="1" height="1e9"')).shape == (256, 256, 3)


def test_prefixes_and_entities():
    text = '<!DOCTYPE s:svg [<!ENTITY c "red">]><s:svg xmlns:s="http://www.w3.org/2000/svg" viewBox="0 0 1 1">'
    assert (pixels(f'{text}<s:rect width="1" height="1" fill="&c;"/></s:svg>'.encode()) == RED).all()


def test_nothing_is_loaded(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "blue.png")
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "blue").save(buffer, "PNG")
    size = 'width="10" height="10"'
    for link in (str(tmp_path / "blue.png"), "blue.png", (tmp_path / "blue.png").as_uri()):
        for name in ("href", "xlink:href"):
            assert (pixels(drawing(f'<image {size} {name}="{link}"/>')) == WHITE).all()
        filled = f'<filter id="f"><feImage href="{link}"/></filter><rect {size} filter="url(#f)"/>'
        assert not (pixels(drawing(filled)) == [0, 0, 255]).all(axis=2).any()
    entity = f'<!DOCTYPE svg [<!ENTITY x SYSTEM "{tmp_path / "blue.png"}">]>'.encode()
    assert reason(entity + drawing("&x;")).startswith("SVG is not well-formed")


def test_gradients_and_uses_still_work():
    inner = (
        '<defs><linearGradient id="g"><stop stop-color="red"/></linearGradient><rect id="r" width="10" height="10"/>'
        '</defs><style>.a{fill:url(#g)}</style><use class="a" xlink:href="#r"/>'
    )
    assert (pixels(drawing(inner)) == RED).all()


def test_what_is_too_deep_is_refused():
    pytest.importorskip("resvg_py")
    deep = "SVG is nested more than 200 deep"
    assert reason(drawing("<g>" * 100_000 + "</g>" * 100_000)) == deep
    chain = "".join(f'<g id="g{i}"><use href="#g{i + 1}"/></g>' for i in range(50_000))
    assert reason(drawing(chain)).startswith("SVG cannot be drawn")
    # As deep as is allowed: the frame, the drawing and the shape are three.
    inner = "<g>" * 190 + '<rect width="10" height="10" fill="red"/>' + "</g>" * 190
    assert (pixels(drawing(inner)) == RED).all()


def test_many_copies_are_refused():
    pytest.importorskip("resvg_py")
    levels = "".join(f'<g id="g{i}">' + f'<use href="#g{i - 1}"/>' * 10 + "</g>" for i in range(1, 9))
    actual = reason(drawing(f'<defs><g id="g0"><rect width="1" height="1"/></g>{levels}</defs><use href="#g8"/>'))
    assert actual.startswith("SVG cannot be drawn")
    laughs = "".join(f'<!ENTITY l{i} "' + f"&l{i - 1};" * 10 + '">' for i in range(1, 10))
    assert reason(f'<!DOCTYPE svg [<!ENTITY l0 "ha">{laughs}]>'.encode() + drawing("&l9;")).startswith("SVG is not")


def test_refusals(monkeypatch):
    assert reason(drawing(""), max_bytes=20).endswith("over limits.max_bytes=20")
    for svg_limit in (None, False):
        message = "an SVG drawing, which is drawn only with limits.svg=true"
        assert reason(drawing(""), svg=svg_limit) == message
    pytest.importorskip("resvg_py")
    assert reason(b"<html><body><svg></svg></body></html>") == "not an image, it looks like an HTML page"
    assert reason(b"<svg><rect></svg>").startswith("SVG is not well-formed")
    assert reason(b"<svg/>").startswith("SVG without its namespace")
    monkeypatch.setattr(svg, "find_spec", lambda name: None)
    assert reason(drawing("")) == "SVG needs the extra demo: pip install embedall_spark[demo]"


def test_time_is_bounded_and_a_crash_ends_only_the_renderer(monkeypatch):
    pytest.importorskip("resvg_py")
    monkeypatch.setattr(svg, "_idle", svg.queue.SimpleQueue())
    monkeypatch.setattr(svg, "_SERVE", "from embedall_spark.images import svg; svg.MAX_SECONDS = 0; svg.serve()")
    noise = '<feTurbulence baseFrequency="0.05" numOctaves="50"/>' * 2000
    slow = drawing(f'<filter id="f">{noise}</filter><rect width="9" height="9" filter="url(#f)"/>')
    assert reason(slow) == "SVG cannot be drawn (it took more than 10 s)"
    # The next drawing has a renderer of its own.
    assert (pixels(drawing('<rect width="10" height="10" fill="red"/>')) == RED).all()
    crash = "import os\nfrom embedall_spark.images import svg\nsvg._render = lambda _: os.abort()\nsvg.serve()"
    monkeypatch.setattr(svg, "_idle", svg.queue.SimpleQueue())
    monkeypatch.setattr(svg, "_SERVE", crash)
    assert reason(drawing("")) == "SVG cannot be drawn (the renderer crashed)"


def test_a_panic_of_the_renderer_is_an_error(monkeypatch):
    resvg = pytest.importorskip("resvg_py")

    class Panic(BaseException):
        """As PyO3's is."""

    def panic(**_):
        raise Panic("unwrap")

    monkeypatch.setattr(resvg, "svg_to_bytes", panic)
    with pytest.raises(svg.SvgError, match=r"cannot be drawn \(unwrap\)"):
        svg._render(drawing(""))
