"""Imports of a tiny folder, and of an installed package against what modulefinder sees."""

from __future__ import annotations

from modulefinder import ModuleFinder
from pathlib import Path

import sklearn.cluster

from embedall_spark.schemas import EDGES
from embedall_spark.sources import python_files, python_imports

INIT = "from .a import f\nfrom . import a, VERSION\nfrom .deep import *\n"
DEEP = """
from __future__ import annotations
import os.path, os, sys as system
if os:
    def g():
        from .. import a as b, deep
        from ..a import f, g as h
        from ... import beyond
        try:
            import os
        except ImportError:
            from numpy import linalg, array
"import json"
"""


def test_edges_of_a_folder(spark, tmp_path):
    (tmp_path / "pkg" / "deep").mkdir(parents=True)
    (tmp_path / "pkg" / "__init__.py").write_text(INIT)
    (tmp_path / "pkg" / "a.py").write_text("")
    (tmp_path / "pkg" / "deep" / "__init__.py").write_text(DEEP)
    (tmp_path / "top.py").write_text("from pkg import deep, deep.c\n")
    (tmp_path / "script.py").write_text("from . import x\nimport pkg.deep.c\n")
    actual = python_imports.read(spark, str(tmp_path))
    assert actual.schema.simpleString() == EDGES.simpleString()
    rows = actual.collect()
    assert {(row.src, row.dst, row.weight) for row in rows if not row.problem} == {
        ("pkg", "pkg.a", 2.0),
        ("pkg", "pkg", 1.0),
        ("pkg", "pkg.deep", 1.0),
        ("pkg.deep", "os.path", 1.0),
        ("pkg.deep", "os", 2.0),
        ("pkg.deep", "sys", 1.0),
        ("pkg.deep", "pkg.a", 2.0),
        ("pkg.deep", "pkg.deep", 1.0),
        ("pkg.deep", "numpy", 1.0),
        ("script", "pkg.deep.c", 1.0),
    }
    (bad,) = [row for row in rows if row.problem]
    assert (bad.src, bad.dst, bad.weight, bad.origin) == (None, None, None, "top.py")
    assert bad.problem.startswith("not Python: ")


def test_imports_are_those_that_python_sees():
    folder = Path(sklearn.cluster.__file__).parent
    root, checked = str(folder.parents[1]), 0
    for path in sorted(folder.glob("*.py")):
        name = str(path.relative_to(root))
        finder, expected = ModuleFinder([root]), set()
        code = compile(path.read_bytes(), name, "exec")
        package = "sklearn.cluster"
        for what, args in finder.scan_opcodes(code):
            if what == "absolute_import" and args[1] != "__future__":
                expected.add((args[1], tuple(args[0] or ())))
            elif what == "relative_import":
                level, names, module = args
                base = package.split(".")[: 3 - level]
                expected.add((".".join([*base, *([module] if module else [])]), tuple(names or ())))
        actual = set(python_imports.of_tree(python_files.parse(path), root, name))
        top = {one for one, names in expected if not names}
        assert top <= actual
        for module, names in expected:
            assert not names or module in actual or any(f"{module}.{one}" in actual for one in names)
        checked += len(expected)
    assert checked > 100
