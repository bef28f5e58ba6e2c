"""Evaluation sets as they are published: questions-words, WordSim-353, SimLex-999 and their like."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from embedall_spark import files
from embedall_spark.errors import BadData, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    Question = tuple[str, tuple[str, str, str, str]]
    Pair = tuple[str, str, float]


def questions(file: str) -> list[Question]:
    """Return the questions of a file in questions-words format as (section, (a, b, c, expected)).

    Lines that begin with "# " are comments.

    Raises:
        BadData: a line is neither ``: section`` nor four words, or there is no question; names the line.
        ConfigError: the file cannot be read.
    """
    rows: list[Question] = []
    section = ""
    for number, line in _lines(file):
        if line.startswith(":"):
            section = line.removeprefix(":").strip()
            continue
        words = line.split()
        if words[0].startswith("#") and (words[0] == "#" or len(words) != 4):
            continue
        if not section:
            raise BadData(
                f"{file}, line {number}: a question before the first section; put ': NAME' on a line above it"
            )
        if len(words) != 4:
            raise BadData(f"{file}, line {number}: need four words or ': SECTION', found {line[:80]!r}")
        rows.append((section, (words[0], words[1], words[2], words[3])))
    if not rows:
        raise BadData(f"{file}: has no question; need lines of four words below a line ': SECTION'")
    return rows


def pairs(file: str) -> list[Pair]:
    """Return the word pairs of a file in WordSim or SimLex format, with their scores.

    Fields are separated by tabs, commas, semicolons or blanks. The score is the first number after the two words, so
    that files with a part of speech between (SimLex-999 as published) are read too. A first line without a number is
    a header. A line that begins with # is a comment, unless it is a pair whose first word does, such as #tag.

    Raises:
        BadData: a line is not two words and a number, or there is no pair; names the line.
        ConfigError: the file cannot be read.
    """
    rows: list[Pair] = []
    header = False
    for number, line in _lines(file):
        fields = _fields(line)
        score = next((value for value in map(_number, fields[2:]) if value is not None), None)
        is_pair = len(fields) >= 3 and fields[0] and fields[1] and score is not None
        if line.startswith("#") and (not is_pair or line[1:2] in (" ", "#")):
            continue
        if is_pair and score is not None:
            rows.append((fields[0], fields[1], score))
        elif not rows and not header and len(fields) >= 3:
            header = True
        else:
            raise BadData(f"{file}, line {number}: need two words and a number, found {line[:80]!r}")
    if not rows:
        raise BadData(f"{file}: has no word pair; need lines of two words and a number")
    return rows


def _lines(file: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers."""
    try:
        content = files.read_bytes(file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error}); give an existing evaluation file") from None
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise BadData(f"{file}, line {number}: is not UTF-8 ({error.reason}); convert the file") from None
        if line:
            yield number, line


def _fields(line: str) -> list[str]:
    for separator in "\t,;":
        if separator in line:
            return [field.strip() for field in line.split(separator)]
    return line.split()


def _number(field: str) -> float | None:
    try:
        value = float(field)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
