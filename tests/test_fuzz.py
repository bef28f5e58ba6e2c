"""Mutated files to every reader that needs no Spark: each ends in rows, a reject or our own error, in bounded time.

EMBEDALL_FUZZ sets how many mutations of each file are read (default 30; 500 for ten thousand in all), and
EMBEDALL_FUZZ_SEED another sequence of them. A failure names the format and the number; the file is left in the test's
folder.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import random
import resource
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedall_spark import config
from embedall_spark.cli.shared import search_query
from embedall_spark.errors import EmbedallError, NeedsSpark
from embedall_spark.evaluate import benchmark_files
from embedall_spark.images.decode import BadImage, decode
from embedall_spark.kinds import words
from embedall_spark.latent import latent_model
from embedall_spark.sources import csv_records, line_reader, local_metadata, mnist, word2vec_parser
from embedall_spark.sources.image_limits import Limits
from embedall_spark.sources.line_reader import Part
from embedall_spark.sources.metadata import Metadata

if TYPE_CHECKING:
    from collections.abc import Callable

MUTATIONS = int(os.environ.get("EMBEDALL_FUZZ", "30"))
SEED = os.environ.get("EMBEDALL_FUZZ_SEED", "1")
SECONDS, MEGABYTES = 5, 1024
LIMITS = Limits(max_bytes=1 << 20, max_pixels=1 << 20, max_frames=100, svg=True)
DRAW = np.random.default_rng(3)


class Format(NamedTuple):
    """A good file, and what reads it whole."""

    name: str
    content: bytes
    read: Callable[[Path], object]
    share: float = 1.0
    """Of the mutations, where each takes long."""


def picture(kind, **options):
    noise = Image.fromarray(DRAW.integers(0, 256, (24, 32, 3), np.uint8))
    file = io.BytesIO()
    noise.save(file, kind, **options)
    return file.getvalue()


def animation():
    frames = [Image.fromarray(DRAW.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def saved(save, *values, **arrays):
    file = io.BytesIO()
    save(file, *values, **arrays)
    return file.getvalue()


def labels():
    table = pa.table({"id": ["a", "b", "c"], "label": ["x", "y", None], "title": ["eins", "zwei", "drei"]})
    return saved(lambda file: pq.write_table(table, file))


def read_picture(path):
    return decode(path.read_bytes(), LIMITS)


def read_vectors(path):
    return [len(ids) for ids, _ in word2vec_parser.read(str(path), word2vec_parser.head(str(path), "auto"))]


def read_lines(path):
    return [len(lines.values) for lines in line_reader.read(Part(str(path)), "utf-8", 1 << 16, "a limit")]


def read_records(path):
    return [len(lines.values) for lines in csv_records.read(Part(str(path)), "utf-8", ",", 1 << 16)]


def read_labels(path):
    settings = config.parse(Metadata, {"path": str(path), "label": "label", "title": "title"})
    return local_metadata.read(settings, lambda _: pa.table({}), pa.chunked_array([["a"]]))


def read_idx(path):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        target = path.with_name(name)
        # The mutated file takes the place of one of the two.
        good = IDX_IMAGES if "images" in name else IDX_LABELS
        is_mutated = path.read_bytes()[:4] == good[:4]
        target.write_bytes(path.read_bytes() if is_mutated else good)
    pieces = mnist._pieces(str(path.parent), "train")
    numbers = [pa.record_batch({"id": list(range(len(pieces)))})]
    (checked,) = mnist._checker(pieces[:1])([pa.record_batch({"id": [0]})])
    return checked if checked.num_rows else [batch.num_rows for batch in mnist._reader(pieces)(numbers)]


IDX_IMAGES = struct.pack(">4I", 0x803, 5, 4, 3) + bytes(range(60))
IDX_LABELS = struct.pack(">2I", 0x801, 5) + bytes(range(5))
LINES = "".join(f'{{"text": "Zeile {i} — \\u00e9", "n": {i}}}\n' for i in range(40)).encode()
CSV = "id,label,title\n" + "".join(f'{i},"a, ""b""","zwei\nZeilen"\n' for i in range(30))
PLAIN_CSV = "id,label,title\na,x,eins\nb,y,zwei\nc,z,drei\n"
TEXT_VECTORS = "4 3\n" + "".join(f"wort{i} 0.5 -1e-3 {i}\n" for i in range(4))
BINARY_VECTORS = b"4 3\n" + b"".join(f"w{i} ".encode() + struct.pack("<3f", 1, 2, i) + b"\n" for i in range(4))
SVG = b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "1">]><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
SVG += b'<defs><g id="g"><path d="M1 1L8 8z" stroke="red"/></g></defs><use href="#g" x="&a;"/></svg>'
YAML = Path(__file__).resolve().parents[1].joinpath("conf", "words.yaml").read_bytes()
YAML += b"\nevaluate: {gates: {loss: 1.0e+3}, similarity: [a.tsv, 'b']}\n"

FORMATS = [
    Format("a.jpg", picture("JPEG"), read_picture),
    Format("progressive.jpg", picture("JPEG", progressive=True), read_picture),
    Format("a.png", picture("PNG"), read_picture),
    Format("a.webp", picture("WEBP"), read_picture),
    Format("a.gif", animation(), read_picture),
    Format("a.bmp", picture("BMP"), read_picture),
    Format("a.tif", picture("TIFF", compression="tiff_lzw"), read_picture),
    Format("a.svg", SVG, read_picture, 0.3),
    Format("vectors.txt", TEXT_VECTORS.encode(), read_vectors),
    Format("vectors.bin", BINARY_VECTORS, read_vectors),
    Format("a.jsonl", LINES, read_lines),
    Format("a.jsonl.gz", gzip.compress(LINES), read_lines),
    Format("a.jsonl.bz2", bz2.compress(LINES), read_lines),
    Format("a.csv", CSV.encode(), read_records),
    Format("labels.csv", PLAIN_CSV.encode(), read_labels),
    Format("labels.parquet", labels(), read_labels),
    Format("images.idx", IDX_IMAGES, read_idx),
    Format("labels.idx", IDX_LABELS, read_idx),
    Format("a.npy", saved(np.save, np.arange(6, dtype=np.float64)), lambda path: search_query.read_vector(str(path))),
    Format("model.npz", saved(np.savez, about=np.frombuffer(b'{"format": 0}', np.uint8), left=np.eye(3)),
           lambda path: latent_model.from_bytes(path.read_bytes())),
    Format("a.yaml", YAML, lambda path: config.load(words.Config, path)),
    Format("pairs.tsv", b"word 1\tword 2\tscore\na\tb\t3.5\nc\td\t1\n", lambda path: benchmark_files.pairs(str(path))),
    Format("questions.txt", b": capitals\na b c d\ne f g h\n", lambda path: benchmark_files.questions(str(path))),
]  # fmt: skip


def mutate(content: bytes, draw: random.Random) -> bytes:
    """Return a file with one to four changes: bits flipped, bytes replaced, parts cut out, repeated, or cut off."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(data) + 1)
        length = draw.randint(1, 16)
        kind = draw.randrange(7)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place : place + length] = draw.randbytes(length)
        elif kind == 2:
            number = draw.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
            data[place : place + 4] = number.to_bytes(4, draw.choice(["little", "big"]))
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length] * draw.choice([1, 2, 50])
        elif kind == 5:
            data[place:place] = draw.choice(
                [b"\0", b'"', b"\n", b"\r", b"\xff\xfe", b"999999999999", b"-1", b"nan", b"[{"]
            )
        elif draw.random() < 0.3:
            del data[place:]
    return bytes(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_mutated_file_ends_in_a_row_a_reject_or_our_own_error(form, tmp_path):
    path = tmp_path / form.name
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(max(1, int(MUTATIONS * form.share))):
        draw = random.Random(f"{SEED} {form.name} {number}")
        path.write_bytes(mutate(form.content, draw) if number else form.content)
        since = time.process_time()
        try:
            form.read(path)
        except (EmbedallError, BadImage, NeedsSpark):
            assert number > 0 or form.name == "model.npz", "the file itself is good"
        except BaseException as error:
            raise AssertionError(f"mutation {number} of {form.name}: {type(error).__name__}: {error}") from error
        assert time.process_time() - since < SECONDS, f"mutation {number} of {form.name}"
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < MEGABYTES << 10, f"{(after - before) >> 10} MiB more"
