"""Quality beside published tables: word2vec's methods with the settings of texts that measured them on text8.

text8 is the first 100 MB of a cleaned English Wikipedia (mattmahoney.net/dc/textdata.html), a single line of 17 million
words; ``--corpus text8`` reads it. Without it the shared articles are used, of the same length under the same rules, so
that figures can be near and no more.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

import common
import peers
import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Table(NamedTuple):
    """What was measured, with which options under gensim's names."""

    method: str
    dim: int
    epochs: int
    options: Mapping[str, float]
    figures: Mapping[str, float]


# gensim's notebook Word2Vec_FastText_Comparison.
_COMPARISON = {"alpha": 0.05, "sample": 1e-4}
# The pull request that brought CBOW to gensim (176): one epoch, without subsampling.
_CBOW = {"window": 10, "sample": 0}
TABLES = {
    "skip-gram": Table("sgns", 100, 5, _COMPARISON, {"semantic": 0.3897, "syntactic": 0.4110}),
    "n-grams": Table("subwords", 100, 5, _COMPARISON, {"semantic": 0.3492, "syntactic": 0.6601}),
    "hs": Table("hs", 640, 1, _CBOW, {"analogy": 0.293}),
    "cbow-hs": Table("cbow-hs", 640, 1, _CBOW, {"analogy": 0.155}),
    # The demonstration of word2vec.c, by gensim's pull request 386.
    "cbow": Table(
        "cbow", 200, 15, {"alpha": 0.05, "window": 8, "negative": 25, "sample": 1e-4}, {"analogy": 0.53}
    ),
}  # fmt: skip
GOALS = {
    f"{name}_{figure}_minus_published": -0.03
    for name, table in TABLES.items() for figure in table.figures
}  # fmt: skip
QUICK = ("skip-gram",)
QUICK_TOKENS = 300_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="which of them")
    parser.add_argument("--gensim", action="store_true", help="train gensim with the same settings, too")
    options = parser.parse_args(arguments)
    ratios: dict[str, float] = {}
    if not common.absent("gensim"):
        with tempfile.TemporaryDirectory(prefix="embedall-published-") as work:
            lines = common.corpus(options.corpus, options.tokens or (QUICK_TOKENS if options.quick else None), work)
            if lines is not None:
                if not options.quick:
                    common.announce(15)
                for name in QUICK if options.quick else options.tables:
                    ratios |= compare(name, lines, work, gensim=options.gensim)
    print(common.result("published", ratios, GOALS))


def settings(table: Table) -> tuple[int, int, Mapping[str, Any]]:
    """Return dimensions, epochs and options of training."""
    return table.dim, table.epochs, {**peers.METHODS[table.method], **table.options}


def compare(name: str, lines: Path, work: str, *, gensim: bool) -> dict[str, float]:
    """Train with a table's settings, and return how far its figures are above the published ones, and gensim's."""
    table = TABLES[name]
    us = words.ours(lines, f"{work}/{name}", *settings(table))
    say(name, us, table)
    ratios = {f"{name}_{figure}_minus_published": us[figure] - value for figure, value in table.figures.items()}
    if gensim:
        them = words.peer("gensim", lines, f"{work}/{name}-gensim", *settings(table))
        say(f"gensim {name}", them, table)
        ratios |= {f"{name}_{figure}_minus_gensim": us[figure] - them[figure] for figure in table.figures}
    return ratios


def say(what: str, facts: Mapping[str, Any], table: Table) -> None:
    """Print a run's figures beside the published ones."""
    shown = {key: facts[key] for key in ("seconds", "analogy", "semantic", "syntactic")}
    common.say(what, **shown, published=table.figures)


if __name__ == "__main__":
    main()
