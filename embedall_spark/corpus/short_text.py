"""Words of short texts in plain Python: what word_scanner.copy_words() finds, without waiting for its compiler."""

from __future__ import annotations

import unicodedata

JOINERS = "'\u2019-\u2010\u2011\u00ad\u200c\u200d"
"""Apostrophes and hyphens, and the invisible soft hyphen and (non-)joiners that spelling needs inside words."""
_OUTSIDE, _WORD, _MARK, _JOINER = range(4)


def words(text: str, whitespace: bool, min_length: int) -> list[str]:
    """Return the words of a text in their order.

    Args:
        text: the text.
        whitespace: words consist of all characters but white space; otherwise of letters, numbers and marks.
        min_length: shorter words (in characters) are left out.
    """
    kinds, found, index = [_class(letter, whitespace) for letter in text], [], 0
    while index < len(text):
        start = index
        while index < len(text) and _goes_on(kinds, start, index):
            index += 1
        if index - start >= max(1, min_length):
            found.append(text[start:index])
        index = max(index, start + 1)
    return found


def _goes_on(kinds: list[int], start: int, index: int) -> bool:
    """Return whether a word that begins at ``start`` has this character too."""
    if index == start:
        return kinds[index] == _WORD
    if kinds[index] == _JOINER:
        return kinds[index + 1 : index + 2] == [_WORD]
    return kinds[index] != _OUTSIDE


def _class(letter: str, whitespace: bool) -> int:
    if whitespace:
        return _OUTSIDE if letter.isspace() else _WORD
    if letter in JOINERS:
        return _JOINER
    return {"L": _WORD, "N": _WORD, "M": _MARK}.get(unicodedata.category(letter)[0], _OUTSIDE)
