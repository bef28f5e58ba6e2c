"""Every mode and every bad picture, made here, against pixels known by construction."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from embedall_spark.images.decode import BadImage, decode
from embedall_spark.sources.image_limits import Limits

# Pytest has its own rules of what is warned of; see test_warnings_are_silent.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
HEADER = "header is truncated, broken, without pixels or of an unsupported kind"
# 2 x 3 pixels, all different, so that each turn shows.
CORNERS = np.array([[RED, GREEN], [BLUE, WHITE], [BLACK, (10, 200, 90)]], np.uint8)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(content, **limits):
    picture = decode(content, Limits(**limits))
    assert type(picture) is Image.Image and picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def reason(content, **limits):
    with pytest.raises(BadImage) as caught:
        decode(content, Limits(**limits))
    return str(caught.value)


def noise(width=64, height=48):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth, color, rows, *between):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(between) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats(kind, options):
    assert (pixels(saved(noise(), kind, **options)) == np.asarray(noise())).all()


def test_jpeg_and_gif():
    flat = Image.new("RGB", (20, 10), (200, 40, 90))
    assert abs(pixels(saved(flat, "JPEG", quality=95)) - (200, 40, 90)).max() <= 3
    assert (pixels(saved(flat.quantize(4), "GIF")) == (200, 40, 90)).all()
    first, second = Image.new("P", (4, 4), 1), Image.new("P", (4, 4), 2)
    for frame in (first, second):
        frame.putpalette([0, 0, 0, *RED, *GREEN])
    assert (pixels(saved(first, "GIF", save_all=True, append_images=[second])) == RED).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation(kind, orientation):
    stored = Image.fromarray(CORNERS).resize((32, 48), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[274] = orientation
    options = {"TIFF": {"tiffinfo": {274: orientation}}, "WEBP": {"lossless": True, "exif": exif}}
    options["JPEG"] = {"quality": 95, "subsampling": 0, "exif": exif}
    content = saved(stored, kind, **options.get(kind, {"exif": exif}))
    # By the standard's words: where row 0 and column 0 of what is stored lie in what is seen.
    turned = {
        1: CORNERS,
        2: CORNERS[:, ::-1],
        3: CORNERS[::-1, ::-1],
        4: CORNERS[::-1],
        5: CORNERS.transpose(1, 0, 2),
        6: CORNERS[::-1].transpose(1, 0, 2),
        7: CORNERS[::-1, ::-1].transpose(1, 0, 2),
        8: CORNERS[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    # The middle of each of the six fields.
    assert abs(pixels(content)[8::16, 8::16] - turned).max() <= 20


def test_broken_exif_is_ignored():
    content = saved(noise(), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert (pixels(content) == np.asarray(noise())).all()


def test_gray_and_black_and_white():
    gray = np.array([[0, 128, 255]], np.uint8)
    assert pixels(saved(Image.fromarray(gray), "PNG"))[0, :, 1].tolist() == [0, 128, 255]
    assert (pixels(saved(Image.fromarray(gray > 100), "PNG"))[0] == [BLACK, WHITE, WHITE]).all()


def test_palette_with_and_without_transparency():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([*RED, *GREEN, *BLUE])
    assert (pixels(saved(image, "PNG"))[0] == [RED, GREEN, BLUE]).all()
    assert (pixels(saved(image, "PNG", transparency=1))[0] == [RED, WHITE, BLUE]).all()
    assert (pixels(saved(image, "GIF", transparency=2))[0] == [RED, GREEN, WHITE]).all()
    # Alpha for each entry: 51 is a fifth.
    assert (
        abs(pixels(saved(image, "PNG", transparency=bytes([255, 0, 51])))[0] - [RED, WHITE, (204, 204, 255)]).max() <= 1
    )


def test_alpha_lies_on_white():
    values = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 255, 51]]], np.uint8)
    expected = [RED, WHITE, (204, 204, 255)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        assert abs(pixels(saved(Image.fromarray(values), kind, **options))[0] - expected).max() <= 1
    gray = Image.fromarray(np.array([[[0, 255], [0, 0], [100, 51]]], np.uint8), "LA")
    assert abs(pixels(saved(gray, "PNG"))[0] - [BLACK, WHITE, (224, 224, 224)]).max() <= 1


def test_one_transparent_color():
    rgb = Image.fromarray(np.array([[RED, GREEN]], np.uint8))
    assert (pixels(saved(rgb, "PNG", transparency=RED))[0] == [WHITE, GREEN]).all()
    gray = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert (pixels(saved(gray, "PNG", transparency=7))[0] == [WHITE, (8, 8, 8)]).all()


def test_cmyk():
    # No ink is white; all of one ink takes its color away.
    inks = Image.fromarray(
        np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8).repeat(8, 0).repeat(8, 1), "CMYK"
    )
    expected = [WHITE, (0, 255, 255), BLACK]
    assert (pixels(saved(inks, "TIFF"))[0, 4::8] == expected).all()
    # Pillow writes what Photoshop writes: an Adobe marker, and inverted values.
    content = saved(inks, "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in content
    assert abs(pixels(content)[4, 4::8] - expected).max() <= 6


def test_16_bits_of_gray_are_scaled_and_not_clipped():
    values = np.array([[0, 257, 300, 32896, 65535]], np.uint16)
    expected = [0, 1, 1, 128, 255]
    for kind in ("PNG", "TIFF"):
        assert pixels(saved(Image.fromarray(values), kind))[0, :, 0].tolist() == expected
    big_endian = Image.frombytes("I;16B", (5, 1), values.astype(">u2").tobytes())
    assert pixels(saved(big_endian, "TIFF"))[0, :, 0].tolist() == expected
    assert pixels(saved(Image.fromarray(values.astype(np.int32)), "TIFF"))[0, :, 0].tolist() == expected
    row = values.astype(">u2").tobytes()
    hidden = png(5, 1, 16, 0, [row], chunk(b"tRNS", struct.pack(">H", 300)))
    assert pixels(hidden)[0, :, 2].tolist() == [0, 1, 255, 128, 255]


def test_wider_gray_is_scaled_by_its_own_range():
    whole = np.array([[-1000, 0, 99_000]], np.int32)
    assert pixels(saved(Image.fromarray(whole), "TIFF"))[0, :, 0].tolist() == [0, 3, 255]
    assert pixels(saved(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF"))[0, :, 0].tolist() == [
        0,
        128,
        255,
    ]
    assert pixels(saved(Image.fromarray(np.array([[-10, 0, 90]], np.float32)), "TIFF"))[0, :, 0].tolist() == [
        0,
        26,
        255,
    ]
    flat = np.full((2, 2), 70_000, np.int32)
    assert (pixels(saved(Image.fromarray(flat), "TIFF")) == 0).all()
    assert reason(saved(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF")) == "gray values are not finite"


def test_16_bits_of_color_and_alpha():
    row = np.array([65535, 0, 0, 65535, 0, 0, 65535, 0], ">u2").tobytes()
    assert (pixels(png(2, 1, 16, 6, [row]))[0] == [RED, WHITE]).all()
    row = np.array([65535, 0, 0, 0, 65535, 0], ">u2").tobytes()
    assert (pixels(png(2, 1, 16, 2, [row]))[0] == [RED, GREEN]).all()
    assert (pixels(png(2, 1, 16, 2, [row], chunk(b"tRNS", struct.pack(">HHH", 65535, 0, 0))))[0, 1] == GREEN).all()


def test_not_an_image():
    for content in (b"hello", b"<p>404</p>", b"\0" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        assert reason(content) == "not an image"
    page = b'<!doctype html><html><body>404 <svg xmlns="http://www.w3.org/2000/svg"></svg></body></html>'
    for content in (page, b"\xef\xbb\xbf" + page, b"<!-- saved -->\n<HTML lang='en'>", b"<body>404</body>"):
        assert reason(content) == "not an image, it looks like an HTML page"
    assert reason(b"BM") == reason(b"\x89PNG\r\n\x1a\n") == HEADER
    # Formats that Pillow knows and we do not open.
    assert reason(saved(noise(), "ICO")) == "not an image"
    assert reason(saved(noise(), "PPM")) == "not an image"
    assert reason(b"") == "empty"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated(kind):
    content = saved(noise(), kind)
    assert reason(content[: len(content) // 2]) == "truncated"
    seen = set()
    for length in range(1, min(len(content) - 1, 400)):
        try:
            decode(content[:length], Limits())
        except BadImage as refused:
            seen.add(str(refused))
    assert seen and all(text.startswith(("truncated", "not an image", "header is", "broken (")) for text in seen)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_bytes_raise_nothing_else(kind):
    content, random = saved(noise(), kind), np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        broken = bytearray(content)
        for at in random.integers(0, len(broken), 8):
            broken[at] = random.integers(256)
        try:
            assert decode(bytes(broken), Limits(max_pixels=1 << 20)).mode == "RGB"
        except BadImage:
            refused += 1
    assert refused or kind in ("BMP", "TIFF", "JPEG")


def test_decompression_bombs_are_refused_by_their_header():
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    assert reason(bomb) == "3600000000 pixels, over limits.max_pixels"
    exact = saved(Image.new("1", (400, 300)), "PNG")
    assert pixels(exact, max_pixels=120_000).shape == (300, 400, 3)
    assert reason(exact, max_pixels=119_999) == "400 x 300 pixels, over limits.max_pixels=119999"


def test_zero_size_and_too_many_bytes():
    for width, height in ((0, 4), (4, 0), (0, 0)):
        assert reason(png(width, height, 8, 0, [])) == HEADER
    assert reason(b"GIF89a" + bytes(7) + b";") in (HEADER, "truncated")
    content = saved(noise(), "PNG")
    assert pixels(content, max_bytes=len(content)).shape == (48, 64, 3)
    assert (
        reason(content, max_bytes=len(content) - 1) == f"{len(content)} bytes, over limits.max_bytes={len(content) - 1}"
    )


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_too_many_frames(kind):
    frames = [Image.new("RGB", (9, 9), (shade * 20, 0, 0)) for shade in range(7)]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert pixels(content, max_frames=7).shape == (9, 9, 3)
    assert reason(content, max_frames=6) == "more frames than limits.max_frames=6"


def test_counting_frames_is_bounded():
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    gif = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes([*RED, *BLACK]) + image * 200_000 + b";"
    assert reason(gif) == "more frames than limits.max_frames=1000"
    # A chain of directories that ends in itself.
    tiff = bytearray(saved(noise(), "TIFF"))
    (at,) = struct.unpack_from("<I", tiff, 4)
    (entries,) = struct.unpack_from("<H", tiff, at)
    struct.pack_into("<I", tiff, at + 2 + 12 * entries, at)
    assert reason(bytes(tiff)) == "more frames than limits.max_frames=1000"
    assert pixels(saved(noise(), "TIFF", big_tiff=True)).shape == (48, 64, 3)


def test_the_scans_of_a_progressive_jpeg_are_bounded():
    content = saved(noise(), "JPEG", progressive=True)
    scan = content.index(b"\xff\xda")
    scans = content.count(b"\xff\xda")
    # The last scan again and again: valid, and each goes over all pixels.
    last = content[content.rindex(b"\xff\xda") : -2]
    slow = content[:-2] + last * (100 - scans) + content[-2:]
    assert scan and pixels(content, max_pixels=64 * 48).shape == pixels(slow).shape == (48, 64, 3)
    message = "a progressive JPEG of 64 x 48 pixels in 100 scans, too slow to decode"
    assert reason(slow, max_pixels=64 * 48) == message


def test_errors_of_codecs_and_of_memory(monkeypatch):
    content = saved(noise(), "PNG")
    for error, message in (
        (MemoryError(), "decoding needs more memory than there is"),
        (RuntimeError("codec: gone"), "broken (codec, gone)"),
        (RecursionError(), "broken (RecursionError)"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(
                "PIL.PngImagePlugin.PngImageFile.load", lambda self, error=error: (_ for _ in ()).throw(error)
            )
            assert reason(content) == message


def test_warnings_are_silent():
    tiff = saved(noise(), "TIFF", tiffinfo={270: "x" * 100})
    code = (
        "import sys; from embedall_spark.images.decode import *\n"
        "from embedall_spark.sources.image_limits import Limits\n"
        "assert 'pyspark' not in sys.modules\n"
        "try: decode(sys.stdin.buffer.read(), Limits())\n"
        "except BadImage as e: print(e)"
    )
    for content in (saved(Image.new("1", (9500, 9500)), "PNG"), tiff[:-60]):
        done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True)
        assert not done.stderr
