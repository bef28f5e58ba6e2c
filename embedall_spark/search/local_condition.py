"""Conditions in SQL on Arrow tables, for the common part of Spark's grammar; all else raises NeedsSpark.

Columns of text, whole and floating-point numbers and truth values are compared with literals: ``= == != <> < <= > >=``,
``LIKE``, ``IN``, ``BETWEEN``, ``IS NULL``, joined by ``AND``, ``OR``, ``NOT`` and parentheses, with SQL's three values.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from embedall_spark.errors import NeedsSpark

if TYPE_CHECKING:
    from collections.abc import Callable

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'[^'\\]*'|"[^"\\]*")|(?P<number>-?\d+(?:\.\d+)?(?![\w.]))|(?P<mark><=|>=|<>|!=|==|[=<>(),])"""
    r"""|(?P<name>(?:`[^`]+`|[A-Za-z_]\w*)(?:\.(?:`[^`]+`|[A-Za-z_]\w*))*))"""
)
_COMPARE = {"=": "equal", "==": "equal", "!=": "not_equal", "<>": "not_equal"}
_COMPARE |= {"<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
_WORDS = {"AND", "OR", "NOT", "IN", "LIKE", "BETWEEN", "IS", "NULL", "TRUE", "FALSE"}
_WHOLE = r"^[+-]?[0-9]{1,18}$"
_EXACT = 1 << 53
_REASON = "this --where is of a form that only Spark evaluates"


def mask(condition: str, column: Callable[[str], pa.ChunkedArray]) -> pa.ChunkedArray:
    """Return for each row whether it fulfills a condition: true, false or null.

    Args:
        condition: in SQL.
        column: returns a column by the name that the condition has for it; raises NeedsSpark for an unknown one.

    Raises:
        NeedsSpark: the condition, or the values that it compares, are beyond what is evaluated here.
    """
    parser = _Parser(_tokens(condition), column)
    result = parser.disjunction()
    if parser.tokens:
        raise NeedsSpark(_REASON)
    return result


def _tokens(condition: str) -> list[tuple[str, str]]:
    """Return kind and text of each token."""
    tokens, place, condition = [], 0, condition.rstrip()
    while place < len(condition):
        match = _TOKEN.match(condition, place)
        # 'a''b' is one text in SQL.
        if match is None or (match["text"] and condition[match.end() : match.end() + 1] == match["text"][0]):
            raise NeedsSpark(_REASON)
        kind = str(match.lastgroup)
        word = match[kind]
        tokens.append(("word", word.upper()) if kind == "name" and word.upper() in _WORDS else (kind, word))
        place = match.end()
    return tokens


class _Parser:
    """A recursive descent through the tokens, which evaluates as it goes."""

    def __init__(self, tokens: list[tuple[str, str]], column: Callable[[str], pa.ChunkedArray]) -> None:
        self.tokens = tokens
        self._column = column

    def disjunction(self) -> Any:
        result = self._conjunction()
        while self._skip("OR"):
            result = pc.or_kleene(result, self._conjunction())
        return result

    def _conjunction(self) -> Any:
        result = self._negation()
        while self._skip("AND"):
            result = pc.and_kleene(result, self._negation())
        return result

    def _negation(self) -> Any:
        if self._skip("NOT"):
            return pc.invert(self._negation())
        if self._skip("("):
            result = self.disjunction()
            self._expect(")")
            return result
        return self._predicate()

    def _predicate(self) -> Any:
        kind, name = self._next()
        if kind != "name":
            raise NeedsSpark(_REASON)
        values = self._column(name)
        if self._skip("IS"):
            negated = self._skip("NOT")
            self._expect("NULL")
            return pc.is_valid(values) if negated else pc.is_null(values)
        negated = self._skip("NOT")
        result = self._comparison(values, negated)
        return pc.invert(result) if negated else result

    def _comparison(self, values: pa.ChunkedArray, negated: bool) -> Any:
        if self._skip("LIKE"):
            pattern = self._literal()
            if not isinstance(pattern, str) or not pa.types.is_string(values.type):
                raise NeedsSpark(_REASON)
            return pc.match_like(values, pattern)
        if self._skip("BETWEEN"):
            low = self._literal()
            self._expect("AND")
            return pc.and_kleene(_compare(">=", values, low), _compare("<=", values, self._literal()))
        if self._skip("IN"):
            self._expect("(")
            result = _compare("=", values, self._literal())
            while self._skip(","):
                result = pc.or_kleene(result, _compare("=", values, self._literal()))
            self._expect(")")
            return result
        kind, mark = self._next()
        if kind != "mark" or mark not in _COMPARE or negated:
            raise NeedsSpark(_REASON)
        return _compare(mark, values, self._literal())

    def _literal(self) -> str | int | float | bool:
        kind, text = self._next()
        if kind == "text":
            return text[1:-1]
        if kind == "number":
            return float(text) if "." in text else int(text)
        if text in ("TRUE", "FALSE"):
            return text == "TRUE"
        raise NeedsSpark(_REASON)

    def _next(self) -> tuple[str, str]:
        if not self.tokens:
            raise NeedsSpark(_REASON)
        return self.tokens.pop(0)

    def _skip(self, text: str) -> bool:
        """Go on behind a word or mark, if it comes next."""
        there = bool(self.tokens) and self.tokens[0][0] in ("word", "mark") and self.tokens[0][1] == text
        if there:
            self.tokens.pop(0)
        return there

    def _expect(self, text: str) -> None:
        if not self._skip(text):
            raise NeedsSpark(_REASON)


def _compare(mark: str, values: pa.ChunkedArray, literal: str | int | float | bool) -> Any:
    """Return a comparison as Spark makes it, where both sides are of one type, or text is a column of whole numbers."""
    kind, compare = values.type, getattr(pc, _COMPARE[mark])
    if isinstance(literal, bool):
        comparable = pa.types.is_boolean(kind)
    elif isinstance(literal, str):
        comparable = pa.types.is_string(kind)
    else:
        values, literal, comparable = _numbers(values, literal), float(literal), True
    if not comparable:
        raise NeedsSpark(_REASON)
    return compare(values, literal)


def _numbers(values: pa.ChunkedArray, literal: float) -> pa.ChunkedArray:
    """Return a column as float64 where that loses nothing, to be compared with a number."""
    kind = values.type
    if pa.types.is_string(kind) and isinstance(literal, int):
        if not pc.all(pc.match_substring_regex(values, _WHOLE), min_count=0).as_py():
            raise NeedsSpark(_REASON)
        values = values.cast(pa.int64())
    elif pa.types.is_floating(kind):
        # Spark orders NaN above all numbers, and finds it equal to itself.
        if pc.any(pc.is_nan(values), min_count=0).as_py():
            raise NeedsSpark(_REASON)
    elif not pa.types.is_integer(kind):
        raise NeedsSpark(_REASON)
    numbers = values.cast(pa.float64(), safe=False)
    largest = pc.max(pc.abs(numbers)).as_py() or 0
    if abs(literal) > _EXACT or (not pa.types.is_floating(kind) and largest > _EXACT):
        raise NeedsSpark(_REASON)
    return numbers
