"""What the functions of every Python file below a folder call, as EVENTS: stories that any Python installation has."""

from __future__ import annotations

import ast
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.schemas import EVENTS, conform
from embedall_spark.sources import python_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyspark.sql import DataFrame, SparkSession

    Names = dict[str, str | None]
    Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

COLUMNS = pa.schema([("key", pa.string()), ("item", pa.string()), ("order", pa.int64())])
_LOCALS = ".<locals>."
_LITERALS: dict[type[ast.AST], str] = {
    ast.JoinedStr: "str",
    ast.List: "list",
    ast.ListComp: "list",
    ast.Tuple: "tuple",
    ast.Dict: "dict",
    ast.DictComp: "dict",
    ast.Set: "set",
    ast.SetComp: "set",
}
# What binds a name without saying to what, and the field that holds the name.
_BINDERS: dict[type[ast.AST], str] = {
    ast.arg: "arg",
    ast.ExceptHandler: "name",
    ast.MatchAs: "name",
    ast.MatchStar: "name",
    ast.MatchMapping: "rest",
}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# Further kinds of nodes that bind names.
_NAMING = {ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal, *_BINDERS}
# Fields that hold no call, or none that a function makes when it runs; then those that hold text or a number.
_SKIPPED = {
    *("ctx", "op", "ops", "annotation", "returns", "type_comment", "type_params", "names"),
    *("id", "attr", "name", "arg", "asname", "module", "level", "kind", "conversion", "is_async", "simple", "rest"),
}


def read(spark: SparkSession, folder: str) -> DataFrame:
    """Return EVENTS: each function or method below a folder is a story, and what it calls are its events.

    A key is the function's file and qualified name, an order the call's place in the file: calls follow each other as
    they are completed, arguments before the call that takes them. Files that are not Python have a problem each.

    Items are named so that the same thing has the same name in all files, as far as a file tells: imported things by
    their full name (``numpy.array``, whatever the file calls numpy), things of the file itself by its module's name,
    builtins as they are (``len``, ``dict.fromkeys``), methods of literals by their type (``str.join``), methods of
    anything else, ``self`` included, by their own name alone (``.append``). Calls of values that have no name, such as
    a parameter, are left out.

    Raises:
        BadData: the folder is not there, has no .py file, or has more than a million.
    """
    calls = python_files.read(spark, folder, rows, COLUMNS)
    return conform(calls.withColumn("order", F.col("order").cast(EVENTS["order"].dataType)), EVENTS)


def of_tree(tree: ast.Module, name: str) -> Iterator[tuple[str, str]]:
    """Yield (qualified name of a function, what it calls) for every call in the functions of a file, in their order.

    Args:
        tree: the file's syntax tree.
        name: the file's name below the folder.
    """
    module = python_files.module_of(name)
    pending = [_Scope(tree.body, "", [], False)]
    while pending:
        scope = pending.pop()
        body = _Body(scope.nodes, name, f"{module}.{scope.prefix}")
        seen = [body.names, *scope.chain]
        if scope.is_function:
            for call in sorted(body.calls, key=lambda node: (node.end_lineno, node.end_col_offset)):
                if item := _resolve(call.func, seen):
                    yield scope.prefix.removesuffix(_LOCALS), item
        elif scope.prefix:
            # What the body of a class names is not seen from its methods.
            seen = scope.chain
        for node in sorted(body.defined, key=lambda node: node.lineno, reverse=True):
            pending.append(_scope(node, scope.prefix, seen))


class _Scope(NamedTuple):
    """A module, class or function: its statements, and the names seen from it, nearest first."""

    nodes: Sequence[ast.AST]
    prefix: str
    chain: list[Names]
    is_function: bool


class _Body:
    """What some statements hold, without that of functions and classes in them.

    Arguments of a lambda and variables of a comprehension count as the function's own.
    """

    def __init__(self, nodes: Sequence[ast.AST], file: str, prefix: str) -> None:
        """Look through statements of a file once; ``prefix`` comes before the names of what they define."""
        self.calls: list[ast.Call] = []
        self.defined: list[Definition] = []
        self._file, self._prefix = file, prefix
        self._imported: Names = {}
        self._local: set[str | None] = set()
        self._elsewhere: set[str] = set()
        self._look(list(nodes))

    @property
    def names(self) -> Names:
        """The names that are bound here, and the full names of what they mean; None: a local value."""
        names = dict.fromkeys(filter(None, self._local)) | self._imported
        return {name: full for name, full in names.items() if name not in self._elsewhere}

    def _look(self, pending: list[Any]) -> None:
        # The demo's packages have tens of millions of nodes, nearly all of them names, calls and their parts.
        while pending:
            node = pending.pop()
            kind: Any = type(node)
            if kind is ast.Name:
                if type(node.ctx) is not ast.Load:
                    self._local.add(node.id)
                continue
            if kind is ast.Call:
                self.calls.append(node)
            elif kind in _DEFINITIONS:
                self.defined.append(node)
                self._imported[node.name] = self._prefix + node.name
                pending += _at_once(node)
                continue
            elif kind in _NAMING:
                self._bind(node)
            for field in _fields(kind):
                value = getattr(node, field)
                if type(value) is list:
                    pending += value
                elif value is not None:
                    pending.append(value)

    def _bind(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            # The end is looked at first, so that of several imports of a name the first one stays.
            self._imported |= _imported(node, self._file)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            self._elsewhere.update(node.names)
        else:
            self._local.add(getattr(node, _BINDERS[type(node)]))


def _scope(node: Definition, prefix: str, chain: list[Names]) -> _Scope:
    if isinstance(node, ast.ClassDef):
        return _Scope(node.body, f"{prefix}{node.name}.", chain, False)
    args = node.args
    every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    nodes = [*(arg for arg in every if arg), *node.body]
    return _Scope(nodes, f"{prefix}{node.name}{_LOCALS}", chain, True)


def _at_once(node: Definition) -> list[ast.AST]:
    """Return the parts of a definition that run where it stands: decorators, defaults, bases."""
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list, *node.bases, *node.keywords]
    return [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]


@functools.cache
def _fields(kind: type) -> tuple[str, ...]:
    """Return the fields of a kind of node that hold the nodes to look at."""
    # Lists of nodes may have gaps: the keys of {**a}.
    if kind is ast.Constant or not issubclass(kind, ast.AST):
        return ()
    return tuple(field for field in kind._fields if field not in _SKIPPED)


def _imported(node: ast.Import | ast.ImportFrom, file: str) -> Names:
    """Return the names that an import binds, and what they mean."""
    if isinstance(node, ast.Import):
        # 'import a.b' binds a.
        pairs = [
            (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2 for alias in node.names
        ]
        return dict(pairs)
    module = python_files.absolute(file, node.module, node.level)
    return {alias.asname or alias.name: module and f"{module}.{alias.name}" for alias in node.names}


def _resolve(callee: ast.expr, seen: Sequence[Names]) -> str | None:
    """Return the name of what is called, None where it has none."""
    last, path = "", callee
    while isinstance(path, ast.Attribute):
        last, path = f".{path.attr}{last}", path.value
    method = f".{callee.attr}" if isinstance(callee, ast.Attribute) else None
    if isinstance(path, ast.Constant):
        return f"{type(path.value).__name__}{last}"
    if not isinstance(path, ast.Name):
        literal = _LITERALS.get(type(path))
        return f"{literal}{last}" if literal else method
    for names in seen:
        if path.id in names:
            full = names[path.id]
            return f"{full}{last}" if full else method
    # Left are builtins, and names that 'from x import *' may have brought.
    return f"{path.id}{last}"


def rows(tree: ast.Module, root: str, name: str) -> Iterator[tuple[str, str, int]]:
    """Yield the rows of a file: COLUMNS, as python_files.read() wants them."""
    del root
    return ((f"{name}:{function}", item, index) for index, (function, item) in enumerate(of_tree(tree, name)))
