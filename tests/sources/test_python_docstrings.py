"""Docstrings of a small folder, and of one module against what Python itself says."""

import inspect
import json.decoder
from pathlib import Path

import pytest

from embedall_spark.errors import BadData
from embedall_spark.sources import python_docstrings, python_files, text

SOURCE = '''"""Module."""
async def f():
    """Of f.

        indented
    not
    """
    if f:
        class A:
            r"""Of \\d A."""
            def g(self): "Shared."
match f:
    case 1:
        def h(): "Shared."
try: pass
except ValueError:
    def i(): """\\ud800 lone"""
def empty(): ""
x = "no docstring"
'''


def test_every_docstring_once_and_every_bad_file_named(spark, tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "a.py").write_text(SOURCE)
    (tmp_path / "pkg" / "b.py").write_text('"Shared."\n')
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "zeros.py").write_bytes(b"\0\0")
    (tmp_path / "latin.py").write_bytes('# -*- coding: latin-1 -*-\n"Übung"\n'.encode("latin-1"))
    (tmp_path / "nested.py").write_text("(" * 100_000)
    (tmp_path / "large.py").write_text("#" * (python_files.MAX_FILE_BYTES + 1))
    (tmp_path / "other.txt").write_text('"not Python"')
    rows = text.read(spark, text.TextConfig(path=str(tmp_path), format="docstrings")).collect()
    assert sorted(row.text for row in rows if row.text) == [
        "? lone",
        "Module.",
        "Of \\d A.",
        "Of f.\n\n    indented\nnot",
        "Shared.",
        "Übung",
    ]
    assert {row.origin for row in rows if row.problem} == {"broken.py", "zeros.py", "nested.py", "large.py"}
    assert all(row.problem.startswith("not Python: ") for row in rows if row.problem)
    assert {row.origin for row in rows if row.text == "Shared."} == {"pkg/a.py"}
    assert len({row.id for row in rows}) == len(rows)


def test_docstrings_are_those_that_python_sees():
    module = json.decoder
    members = [module, module.JSONDecoder, *vars(module).values(), *vars(module.JSONDecoder).values()]
    expected = {inspect.getdoc(m) for m in members if getattr(m, "__module__", module.__name__) == module.__name__}
    actual = set(python_docstrings.of_tree(python_files.parse(Path(module.__file__))))
    assert len(actual) > 4 and actual <= expected


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_python_is_named(spark, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match=name):
        python_docstrings.read(spark, str(tmp_path / name))


def test_a_version_follows_the_files(tmp_path):
    (tmp_path / "a.py").write_text("1")
    before = python_files.version(str(tmp_path))
    (tmp_path / "b.py").write_text("1")
    assert python_files.version(str(tmp_path)) != before
