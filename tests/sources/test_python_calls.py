"""Calls of a tiny folder by hand, and of a module of Python's own against what Python itself says."""

from __future__ import annotations

import builtins
import json.decoder
import json.encoder
import pkgutil
from decimal import Decimal
from pathlib import Path

import pytest

from embedall_spark.schemas import EVENTS
from embedall_spark.sources import python_calls, python_files

SOURCE = """
import os.path, numpy as np
from os import path as p
from . import near
from .near import thing as other
from ... import beyond
from star import *
try:
    import simplejson as js
except ImportError:
    import json as js
VALUE = np.array([1])
print(VALUE)

def f(a, *, key=len(VALUE)):
    np.array(np.zeros(len(a)))
    os.path.join(p.exists(a), "x".join(a)).strip().upper()
    other(); near.thing(); js.loads(a); beyond.it()
    VALUE.sum(); a(); a.b.c(); VALUE(); starred()
    [g(x) for x in {}.items()]
    (lambda key: len(key))(1)
    import os.path as np
    from math import sin
    sin(a)

@np.vectorize(1)
def g(sin):
    global VALUE
    sin(1); VALUE = dict.fromkeys(a=int("1")); VALUE(); f"{sin(2)}".lower()

class A(B(1)):
    def g(self): pass
    attribute = g(3)
    async def m(self, cls) -> str(3):
        self.g(); cls(); super().__init__(); self.x[0](); g(1); A(); A.m()
        def inner(x: int("3")):
            inner(); m()
            return local
        def local(): inner()
        with open(self) as handle, (handle := 1): handle.read()
        match self:
            case [B(), *rest] if rest(): str.join(rest)
"""


def by_function(name="pkg/mod.py", source=SOURCE):
    calls = {}
    for function, item in python_calls.of_tree(python_files.ast.parse(source), name):
        calls.setdefault(function, []).append(item)
    return calls


def test_every_call_by_hand():
    assert by_function() == {
        # np means another thing in this function, everywhere.
        "f": [
            *("len", "os.path.zeros", "os.path.array", "os.path.exists", "str.join", "os.path.join", ".strip"),
            *(".upper", "pkg.near.thing", "pkg.near.thing", "simplejson.loads", ".it", ".sum", ".c", "starred"),
            *("pkg.mod.g", "dict.items", "len", "math.sin"),
        ],
        "g": ["int", "dict.fromkeys", "str.lower"],
        "A.m": [
            *(".g", "super", ".__init__", "pkg.mod.g", "pkg.mod.A", "pkg.mod.A.m", "open", ".read", "str.join"),
        ],
        "A.m.<locals>.inner": ["pkg.mod.A.m.<locals>.inner", "m"],
        "A.m.<locals>.local": ["pkg.mod.A.m.<locals>.inner"],
    }


def test_modules_are_named_by_their_place():
    source = "from .. import a\nfrom . import b\ndef f(): a(); b(); f()"
    assert by_function("x/y/__init__.py", source) == {"f": ["x.a", "x.y.b", "x.y.f"]}
    assert by_function("x.py", source) == {"f": ["x.f"]}


@pytest.mark.parametrize("module", [json.decoder, json.encoder, pkgutil])
def test_items_are_what_python_finds_under_their_names(module):
    name = module.__name__.replace(".", "/") + ".py"
    tree = python_files.parse(Path(module.__file__))
    actual = list(python_calls.of_tree(tree, name))
    functions = {function for function, _ in actual}
    assert functions <= qualified(compile(tree, name, "exec"))
    full = {item for _, item in actual if not item.startswith(".") and "<locals>" not in item}
    assert len(full) >= 10
    for item in full:
        assert callable(pkgutil.resolve_name(f"builtins.{item}" if hasattr(builtins, item.split(".")[0]) else item))


def qualified(code):
    """Return the qualified names of all code below a code object."""
    parts = [part for part in code.co_consts if hasattr(part, "co_qualname")]
    return {part.co_qualname for part in parts}.union(*map(qualified, parts))


def test_events_of_a_folder(spark, tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "a.py").write_text("def f():\n  len(1); g()\ndef g(): 'no call'\ndef f(): print()\n")
    (tmp_path / "b.py").write_text("def h(): min(1)\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    actual = python_calls.read(spark, str(tmp_path))
    assert actual.schema.simpleString() == EVENTS.simpleString()
    rows = sorted(actual.where("problem is null").collect(), key=lambda row: (row.key, row.order))
    assert [(row.key, row.item, row.order) for row in rows] == [
        ("b.py:h", "min", 0),
        ("pkg/a.py:f", "len", 0),
        ("pkg/a.py:f", "pkg.a.g", 1),
        ("pkg/a.py:f", "print", 2),
    ]
    assert isinstance(rows[0].order, Decimal)
    assert rows[0].weight is None
    (bad,) = actual.where("problem is not null").collect()
    assert (bad.origin, bad.key, bad.item) == ("broken.py", None, None)
    assert bad.problem.startswith("not Python: ")
