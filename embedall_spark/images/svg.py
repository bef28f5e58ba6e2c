"""SVG drawings to PNG through resvg-py, an optional package; what a drawing refers to outside itself is not loaded."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

EDGE = 256
"""Width and height of every drawing, in pixels."""
_NAMESPACE = "{http://www.w3.org/2000/svg}"
# Deeper ones overflow the stack of the program that draws, which ends the process.
_DEEPEST = 200
_START = re.compile(rb"<(?:[\w-]+:)?svg[\s>/]")
_REFERENCE = re.compile(r"#([^\s'\")]+)")


class CannotDraw(Exception):
    """A drawing that cannot be drawn; its text is the reason."""


def is_svg(content: bytes) -> bool:
    """Tell from its beginning whether a file is an SVG drawing; names do not count."""
    head = content[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(b"<") and _START.search(head) is not None


def draw(content: bytes) -> bytes:
    """Return a drawing as a PNG of EDGE x EDGE pixels on white, its proportions kept, in the middle.

    Pictures that it refers to or embeds are left out, and so is text that is not outlines: it would depend on the
    host's fonts. Size and depth are bounded, but the time is not: strangers' drawings may take long on purpose.

    Raises:
        CannotDraw: it is not SVG, is nested too deep, or resvg-py is not there.
    """
    try:
        import resvg_py
    except ImportError:
        raise CannotDraw("SVG needs the extra demo: pip install embedall_spark[demo]") from None
    root = _parse(content)
    for element in root.iter():
        if element.tag in (f"{_NAMESPACE}image", f"{_NAMESPACE}feImage"):
            for name in [name for name in element.attrib if name.rpartition("}")[2] == "href"]:
                del element.attrib[name]
    _check_depth(root)
    text = ET.tostring(_framed(root), encoding="unicode")
    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=text, background="white", skip_system_fonts=True))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # A panic of the program that draws is no Exception.
        raise CannotDraw(f"SVG cannot be drawn ({error})") from None


def _parse(content: bytes) -> ET.Element:
    depth = 0
    root: ET.Element | None = None
    try:
        for event, element in ET.iterparse(io.BytesIO(content), ("start", "end")):
            root = element if root is None else root
            depth += 1 if event == "start" else -1
            if depth > _DEEPEST:
                raise CannotDraw(f"SVG is nested more than {_DEEPEST} deep")
    except (ET.ParseError, ValueError, LookupError) as error:
        raise CannotDraw(f"SVG is not well-formed ({error})") from None
    if root is None or root.tag not in (f"{_NAMESPACE}svg", "svg"):
        raise CannotDraw("not an image")
    if root.tag == "svg":
        raise CannotDraw("SVG without its namespace, xmlns='http://www.w3.org/2000/svg'")
    return root


def _check_depth(root: ET.Element) -> None:
    """Refuse a drawing that is nested too deep once its references are followed, or that refers to itself."""
    named = {name: element for element in root.iter() if (name := element.get("id"))}
    heights: dict[ET.Element, int] = {}

    def height(element: ET.Element, level: int) -> int:
        if level > _DEEPEST:
            raise CannotDraw(f"SVG is nested more than {_DEEPEST} deep, or refers to itself")
        if element not in heights:
            values = " ".join(element.attrib.values())
            inner = [*element, *(named[name] for name in _REFERENCE.findall(values) if name in named)]
            heights[element] = 1 + max((height(child, level + 1) for child in inner), default=0)
        return heights[element]

    styles = " ".join(element.text or "" for element in root.iter(f"{_NAMESPACE}style"))
    if len(named.keys() & set(_REFERENCE.findall(styles))) > _DEEPEST or height(root, 0) > _DEEPEST:
        raise CannotDraw(f"SVG is nested more than {_DEEPEST} deep")


def _framed(root: ET.Element) -> ET.Element:
    """Return a drawing in the middle of a frame of EDGE x EDGE, since its own size may be any."""
    box = root.get("viewBox", "").replace(",", " ").split()
    width, height = (_length(value) for value in box[2:]) if len(box) == 4 else (0.0, 0.0)
    if not width or not height:
        width, height = (_length(root.get(side)) for side in ("width", "height"))
        root.set("viewBox", f"0 0 {width} {height}" if width and height else f"0 0 {EDGE} {EDGE}")
    width, height = (width, height) if width and height else (EDGE, EDGE)
    scale = EDGE / max(width, height)
    place = {"x": EDGE - scale * width, "y": EDGE - scale * height}
    root.attrib.update({side: str(room / 2) for side, room in place.items()})
    root.attrib.update({"width": str(scale * width), "height": str(scale * height)})
    frame = ET.Element(f"{_NAMESPACE}svg", {"width": str(EDGE), "height": str(EDGE)})
    frame.append(root)
    return frame


def _length(value: str | None) -> float:
    """Return a length in the drawing's units; 0 where it is relative, or none."""
    found = re.fullmatch(r"\s*(\d*\.?\d+(?:e\+?\d{1,2})?)(?:px|pt|pc|mm|cm|in)?\s*", value or "")
    return float(found[1]) if found else 0.0
