"""Which files an input's path names: each once, and a reason for each that is left out. No Spark."""

import os

import pytest

from embedall_spark.errors import BadData
from embedall_spark.sources import input_files, input_version
from embedall_spark.sources.input_files import InputFile


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def walk(path, suffixes=None):
    """Return the files below a folder and what is left out, by path."""
    entries = list(input_files.walk(str(path), input_files.ending_in(suffixes) if suffixes else None))
    base = f"{input_files.folder_of(str(path))}/"
    paths = [entry.path.removeprefix(base) for entry in entries if isinstance(entry, InputFile)]
    assert len(set(paths)) == len(paths)
    return sorted(paths), {e.path.removeprefix(base): e.reason for e in entries if not isinstance(e, InputFile)}


def test_all_that_a_person_expects_is_read_or_has_a_reason(tmp_path):
    put(tmp_path, "a.txt", "_b.txt", "sub/deep/c.txt", "k=v/d.txt", "2024-01-01 12:00.txt", "[v1]/e.txt")
    put(tmp_path, ".hidden", ".git/config", "_SUCCESS", "._SUCCESS.crc", "_delta_log/0.json")
    (tmp_path / "dangling.txt").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    actual, left_out = walk(tmp_path)
    assert actual == ["2024-01-01 12:00.txt", "[v1]/e.txt", "_b.txt", "a.txt", "k=v/d.txt", "sub/deep/c.txt"]
    assert left_out == {
        ".hidden": "the name begins with a dot", ".git": "the name begins with a dot",
        "_SUCCESS": "bookkeeping of Spark or Delta", "._SUCCESS.crc": "bookkeeping of Spark or Delta",
        "_delta_log": "bookkeeping of Spark or Delta",
        "dangling.txt": "a link to nothing", "pipe": "neither a file nor a folder",
        "caf\ufffd.txt": "the name is not UTF-8",
    }  # fmt: skip
    counts = input_version.storage_of(str(tmp_path), "text").left_out()
    assert counts["the name begins with a dot"][0] == 2 and counts["a link to nothing"] == (
        1,
        f"{tmp_path}/dangling.txt",
    )
    # Spark's own reader of Parquet leaves out more.
    counts = input_version.storage_of(str(tmp_path), "parquet").left_out()
    assert counts["Spark does not read Parquet files whose names begin with _"] == (1, f"{tmp_path}/_b.txt")
    assert counts["Spark does not read Parquet files in folders below"][0] == 2


def test_links_are_followed_and_each_file_is_read_once(tmp_path):
    put(tmp_path, "in/a.txt", "in/sub/b.txt", "in/.store/c", "out/d.txt", "out/deep/e.txt", "f.txt")
    links = {
        "in/loop": "..", "in/sub/up": "..", "in/again": "sub", "in/b.txt": "sub/b.txt", "in/self": "self",
        "in/stored.txt": ".store/c", "in/out1": "../out", "in/out2": "../out", "in/out3": "../out/deep",
        "in/d.txt": "../out/d.txt", "in/f1.txt": "../f.txt", "in/f2.txt": "../f.txt",
    }  # fmt: skip
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    actual, left_out = walk(tmp_path / "in")
    names = {os.path.realpath(tmp_path / "in" / name).removeprefix(f"{tmp_path}/") for name in actual}
    assert names == {"in/a.txt", "in/sub/b.txt", "in/.store/c", "out/d.txt", "out/deep/e.txt", "f.txt"}
    assert len(actual) == 6 and {"loop", "sub/up", "again", "b.txt", "out2", "out3", "f2.txt"} <= set(left_out)
    # What a link leads to counts as read only where its own name does.
    put(tmp_path, "blobs/0")
    (tmp_path / "blobs/0.png").symlink_to("0")
    assert walk(tmp_path / "blobs", [".png"])[0] == ["0.png"]


def test_files_written_again_with_the_same_bytes_are_the_same_input(tmp_path, monkeypatch):
    put(tmp_path, "a.csv", "sub/b.csv")

    def version(path=tmp_path):
        return input_version.storage_of(str(path), "csv").version(None)

    first = version()
    put(tmp_path, "a.csv", "sub/b.csv")
    os.utime(tmp_path / "a.csv", (1, 1))
    assert version() == version(tmp_path.as_uri()) == first and first.endswith(".2")
    (tmp_path / "a.csv").write_text("b.csv")
    os.utime(tmp_path / "a.csv", (1, 1))
    assert version() != first
    # What is larger is told by sizes and times.
    monkeypatch.setattr(input_version, "_MAX_BYTES", 10)
    large = version()
    os.utime(tmp_path / "a.csv", (2, 2))
    assert len({first, large, version()}) == 3


def test_a_glob_names_files_and_folders(tmp_path):
    put(tmp_path, "1/a.txt", "2/a.txt", "2/deep/b.txt", "3.txt", "in [v1]/c.txt", ".x/d.txt")
    assert walk(tmp_path / "*" / "a.txt")[0] == ["1/a.txt", "2/a.txt"]
    assert walk(tmp_path / "[2-9]*")[0] == ["2/a.txt", "2/deep/b.txt", "3.txt"]
    # A path that is there is no glob.
    assert walk(tmp_path / "in [v1]")[0] == ["c.txt"]
    assert [file.path for file in input_files.list_files(str(tmp_path / "3.txt"))] == [f"{tmp_path}/3.txt"]
    assert [file.path for file in input_files.list_files((tmp_path / "3.txt").as_uri())] == [f"{tmp_path}/3.txt"]
    with pytest.raises(BadData, match="nothing: no such file or folder"):
        input_files.list_files(str(tmp_path / "nothing"))
    put(tmp_path, "none/.hidden")
    with pytest.raises(
        BadData, match=r"need at least one file with content, found none \(1: the name begins with a dot"
    ):
        input_files.list_files(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("/a/*.p?g", ["/a/x.png", "/a/.pxg/deep/y"], ["/a/b/x.png", "/a/x.pg", "/a/x.png2"]),
        ("/{a,b}/[0-9x]{1,}", ["/a/3", "/b/x1"], ["/c/3", "/a/y"]),
        ("/[!a]+", ["/b+"], ["/a+", "/bb"]),
        (r"/a\*b.c", ["/a*b.c"], ["/axb.c", "/a*bxc"]),
    ],
)
def test_hadoop_globs(glob, yes, no):
    pattern = input_files.pattern_of(glob)
    assert all(map(pattern.fullmatch, yes)) and not any(map(pattern.fullmatch, no))
