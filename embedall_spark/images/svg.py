"""Draws SVG as PNG through resvg-py, an optional package, in a process with bounded time and memory.

A drawing may hold a renderer for hours or end its process, by accident or on purpose, so each is drawn by a child
process that serves one drawing after the other. Nothing that a drawing refers to outside itself is loaded.
"""

from __future__ import annotations

import io
import os
import queue
import re
import resource
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from typing import IO

EDGE = 256
"""Width and height of every drawing, in pixels."""
MAX_SECONDS = 10
"""CPU time that a drawing may take; usual ones take milliseconds."""
_MAX_MEMORY = 2 << 30
_MAX_DEPTH = 200  # of elements within each other; Python's parser and the renderer both recurse
_NAMESPACE = "{http://www.w3.org/2000/svg}"
_HEAD = 4096  # bytes in which the first element begins
# What may precede the first element: white space, <?xml ...?>, comments, and a document type with its entities.
_PROLOG = re.compile(rb"\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>", re.DOTALL | re.IGNORECASE)
_SVG = re.compile(rb"<(?:[\w-]+:)?svg[\s>/]")
_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!DOCTYPE\s+html|html|head|body)\b", re.DOTALL | re.IGNORECASE)
_MARK = b"\xef\xbb\xbf"
_SERVE = f"from {__name__} import serve; serve()"
_idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()


class SvgError(Exception):
    """A drawing that cannot be drawn; its text is the reason."""


def is_svg(content: bytes) -> bool:
    """Tell from the first element whether a file is an SVG drawing; its name does not count."""
    head, start = content[:_HEAD].removeprefix(_MARK), 0
    while prolog := _PROLOG.match(head, start):
        start = prolog.end()
    return _SVG.match(head, start) is not None


def is_html(content: bytes) -> bool:
    """Tell from its beginning whether a file is a web page, such as an error page that was saved as a picture."""
    return _HTML.match(content[:_HEAD].removeprefix(_MARK)) is not None


def draw(content: bytes) -> bytes:
    """Return a drawing as a PNG of EDGE x EDGE pixels on white, its proportions kept, in the middle.

    Pictures that it refers to or embeds are left out, and so is text that is not outlines: it would depend on the
    host's fonts.

    Raises:
        SvgError: it is not SVG, is nested too deep, takes more than MAX_SECONDS, or resvg-py is not installed.
    """
    if find_spec("resvg_py") is None:
        raise SvgError("SVG needs the extra demo: pip install embedall_spark[demo]")
    try:
        renderer = _idle.get_nowait()
    except queue.Empty:
        renderer = _start()
    assert renderer.stdin is not None and renderer.stdout is not None
    try:
        _send(renderer.stdin, b"", content)
        status, result = _receive(renderer.stdout)
    except (EOFError, OSError):
        renderer.stdin.close()
        renderer.stdout.close()
        limit = f"it took more than {MAX_SECONDS} s" if renderer.wait() == -signal.SIGXCPU else "the renderer crashed"
        raise SvgError(f"SVG cannot be drawn ({limit})") from None
    _idle.put(renderer)
    if status:
        raise SvgError(result.decode())
    return result


def _start() -> subprocess.Popen[bytes]:
    """Start a process that runs serve(); it ends with this one, whose pipe it reads."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
        start_new_session=True,  # Ctrl-C is for the process that asked
    )  # fmt: skip


def serve() -> None:
    """Draw what standard input says, one drawing after the other, until it ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    while True:
        try:
            _, content = _receive(sys.stdin.buffer)
        except EOFError:
            return
        usage = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + 1 + MAX_SECONDS, hard))
        try:
            status, result = b"", _render(content)
        except SvgError as error:
            status, result = b"!", str(error).encode()
        _send(sys.stdout.buffer, status, result)


def _send(pipe: IO[bytes], status: bytes, content: bytes) -> None:
    pipe.write(bytes([len(status)]) + status + len(content).to_bytes(8, "little") + content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[bytes, bytes]:
    """Return status and content of one message; raise EOFError where the pipe ends."""

    def read(count: int) -> bytes:
        part = pipe.read(count)
        if len(part) < count:
            raise EOFError
        return part

    status = read(read(1)[0])
    return status, read(int.from_bytes(read(8), "little"))


def _render(content: bytes) -> bytes:
    import resvg_py

    root = _parse(content)
    for element in root.iter():
        if element.tag in (f"{_NAMESPACE}image", f"{_NAMESPACE}feImage"):
            for name in [name for name in element.attrib if name.rpartition("}")[2] == "href"]:
                del element.attrib[name]
    text = ET.tostring(_frame(root), encoding="unicode")
    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=text, background="white", skip_system_fonts=True))
    except BaseException as error:
        # A panic of the renderer is no Exception.
        raise SvgError(f"SVG cannot be drawn ({error})") from None


def _parse(content: bytes) -> ET.Element:
    depth = 0
    root: ET.Element | None = None
    try:
        for event, element in ET.iterparse(io.BytesIO(content), ("start", "end")):
            root = element if root is None else root
            depth += 1 if event == "start" else -1
            if depth > _MAX_DEPTH:
                raise SvgError(f"SVG is nested more than {_MAX_DEPTH} deep")
    except (ET.ParseError, ValueError, LookupError) as error:
        raise SvgError(f"SVG is not well-formed ({error})") from None
    if root is None or root.tag not in (f"{_NAMESPACE}svg", "svg"):
        raise SvgError("not an image")
    if root.tag == "svg":
        raise SvgError("SVG without its namespace, xmlns='http://www.w3.org/2000/svg'")
    return root


def _frame(root: ET.Element) -> ET.Element:
    """Return a drawing in the middle of a frame of EDGE x EDGE, since its own size may be any."""
    box = root.get("viewBox", "").replace(",", " ").split()
    width, height = (_length(value) for value in box[2:]) if len(box) == 4 else (0.0, 0.0)
    if not width or not height:
        width, height = (_length(root.get(side)) for side in ("width", "height"))
        root.set("viewBox", f"0 0 {width} {height}" if width and height else f"0 0 {EDGE} {EDGE}")
    width, height = (width, height) if width and height else (EDGE, EDGE)
    scale = EDGE / max(width, height)
    margins = {"x": EDGE - scale * width, "y": EDGE - scale * height}
    root.attrib.update({side: str(margin / 2) for side, margin in margins.items()})
    root.attrib.update({"width": str(scale * width), "height": str(scale * height)})
    frame = ET.Element(f"{_NAMESPACE}svg", {"width": str(EDGE), "height": str(EDGE)})
    frame.append(root)
    return frame


def _length(value: str | None) -> float:
    """Return a length in the drawing's units; 0 where it is relative, or none."""
    number = re.fullmatch(r"\s*(\d*\.?\d+(?:e\+?\d{1,2})?)(?:px|pt|pc|mm|cm|in)?\s*", value or "")
    return float(number[1]) if number else 0.0
