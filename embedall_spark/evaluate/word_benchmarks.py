"""Word vectors measured by published analogies and human similarity scores."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from embedall_spark.errors import ConfigError
from embedall_spark.evaluate import benchmark_files
from embedall_spark.search import analogy, exact
from embedall_spark.search.local_table import LocalTable
from embedall_spark.vectors import to_matrix, unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa
    from numpy.typing import NDArray

    from embedall_spark.search.local_table import Vectors

    Batches = Iterable[pa.RecordBatch]

log = logging.getLogger(__name__)

_MAX_WORDS = 20_000
_CANDIDATES = 5  # nearest words; the first that is not in the question is the answer, as in gensim


@dataclass(frozen=True)
class Score:
    """The questions of a section, those of them with known words only, and those of these answered right."""

    section: str
    questions: int
    used: int
    right: int

    @property
    def accuracy(self) -> float:
        """Share of right answers among the questions used; nan if there are none."""
        return self.right / self.used if self.used else math.nan


@dataclass(frozen=True)
class Analogies:
    """Accuracy in each section of a file of analogies."""

    file: str
    sections: tuple[Score, ...]

    @property
    def total(self) -> float:
        """Accuracy over all sections."""
        return self._sum("total", self.sections).accuracy

    @property
    def coverage(self) -> float:
        """Share of the questions whose words are all known."""
        whole = self._sum("total", self.sections)
        return whole.used / whole.questions if whole.questions else 0.0

    def metrics(self) -> dict[str, float]:
        """Return the figures by name; a section none of whose questions could be used has none."""
        # Mikolov's file names its syntactic sections gram1 to gram9.
        kinds = {True: "syntactic", False: "semantic"}
        parts = [
            self._sum(name, [part for part in self.sections if part.section.startswith("gram") is is_grammar])
            for is_grammar, name in kinds.items()
        ]
        scores = [self._sum("total", self.sections), *parts, *self.sections]
        figures = {f"analogy/{metric_name(score.section)}": score.accuracy for score in scores if score.used}
        return figures | {f"coverage/{self.file}": self.coverage}

    @staticmethod
    def _sum(name: str, scores: Iterable[Score]) -> Score:
        columns = list(zip(*((part.questions, part.used, part.right) for part in scores), strict=True))
        return Score(name, *(sum(column) for column in columns)) if columns else Score(name, 0, 0, 0)


@dataclass(frozen=True)
class Similarity:
    """Spearman's rank correlation of cosines with human scores; nan if it is undefined."""

    file: str
    spearman: float
    used: int
    pairs: int

    @property
    def coverage(self) -> float:
        """Share of the pairs whose words are both known."""
        return self.used / self.pairs if self.pairs else 0.0

    def metrics(self) -> dict[str, float]:
        """Return the figures by name."""
        figures = {} if math.isnan(self.spearman) else {f"similarity/{self.file}": self.spearman}
        return figures | {f"coverage/{self.file}": self.coverage}


def analogies(vectors: Vectors, file: str, restrict_vocab: int = 300_000, case_insensitive: bool = True) -> Analogies:
    """Return how many analogies the vectors answer by 3CosAdd, as gensim's ``evaluate_word_analogies``.

    A question with a word that is not among the ``restrict_vocab`` most frequent ids is not used. If case does not
    count, the most frequent variant of a word is used for it, and any variant is a right answer.

    Args:
        vectors: VECTORS.
        file: path or URI of a file in questions-words format.
        restrict_vocab: how many most frequent ids count.
        case_insensitive: whether case does not count.

    Raises:
        BadData: the file is malformed.
        ConfigError: the file cannot be read, or has too many distinct words.
    """
    fold = _fold(case_insensitive)
    questions = [(part, tuple(map(fold, words))) for part, words in benchmark_files.questions(file)]
    candidates = exact.most_frequent(vectors, restrict_vocab)
    rows = _fetch(candidates, {word for _, words in questions for word in words}, case_insensitive)
    used = [(part, words) for part, words in questions if all(word in rows for word in words)]
    names = {word: name for word, (name, _) in rows.items()}
    triples = [(names[a], names[b], names[c]) for _, (a, b, c, _) in used]
    hits = analogy.solve(candidates, dict(rows.values()), triples, _CANDIDATES)
    right = [
        part for (part, words), nearest in zip(used, hits, strict=True) if _answer(words[:3], nearest, fold) == words[3]
    ]
    scores = []
    for section in dict.fromkeys(part for part, _ in questions):
        columns = ([part for part, _ in questions], [part for part, _ in used], right)
        scores.append(Score(section, *(sum(part == section for part in column) for column in columns)))
    result = Analogies(metric_name(PurePosixPath(file).stem), tuple(scores))
    if not used:
        log.warning("%s: none of its %d questions has only words of the table; no accuracy", file, len(questions))
        return result
    log.info(
        "%s: %.1f%% of %d questions right, %.1f%% used", file, 100 * result.total, len(used), 100 * result.coverage
    )
    return result


def similarity(vectors: Vectors, file: str, restrict_vocab: int = 300_000, case_insensitive: bool = True) -> Similarity:
    """Return how the cosines of word pairs rank beside human scores, as gensim's ``evaluate_word_pairs``.

    Args:
        vectors: VECTORS.
        file: path or URI of a file in WordSim or SimLex format.
        restrict_vocab: pairs with a word that is not among so many most frequent ids are not used.
        case_insensitive: whether case does not count.

    Raises:
        BadData: the file is malformed.
        ConfigError: the file cannot be read, or has too many distinct words.
    """
    fold = _fold(case_insensitive)
    pairs = [(fold(a), fold(b), score) for a, b, score in benchmark_files.pairs(file)]
    candidates = exact.most_frequent(vectors, restrict_vocab)
    rows = _fetch(candidates, {word for a, b, _ in pairs for word in (a, b)}, case_insensitive)
    used = [pair for pair in pairs if pair[0] in rows and pair[1] in rows]
    spearman = math.nan
    if not used:
        log.warning("%s: none of its %d pairs has both words in the table; no correlation", file, len(pairs))
    else:
        left = unit(np.stack([rows[a][1] for a, _, _ in used]))
        right = unit(np.stack([rows[b][1] for _, b, _ in used]))
        cosines, scores = np.einsum("ij,ij->i", left, right), np.array([score for *_, score in used])
        constant = [name for name, values in (("scores", scores), ("cosines", cosines)) if not np.ptp(values) > 0]
        if constant:
            log.warning("%s: the %s of its %d pairs are all equal; no correlation", file, constant[0], len(used))
        else:
            spearman = _spearman(scores, cosines)
            log.info("%s: Spearman %.3f over %d of %d pairs", file, spearman, len(used), len(pairs))
    return Similarity(metric_name(PurePosixPath(file).stem), spearman, len(used), len(pairs))


def _spearman(left: NDArray[np.floating[Any]], right: NDArray[np.floating[Any]]) -> float:
    # Imported here: tasks import this module too, and scipy.stats takes a Python worker seconds.
    from scipy import stats

    return float(stats.spearmanr(left, right).statistic)


def _answer(question: tuple[str, ...], hits: list[tuple[str, float]], fold: Callable[[str], str]) -> str | None:
    """Return the nearest word that is no variant of the question's words."""
    return next((word for name, _ in hits if (word := fold(name)) not in question), None)


def _fold(case_insensitive: bool) -> Callable[[str], str]:
    return str.upper if case_insensitive else str


def metric_name(text: str) -> str:
    """Return a text as part of a metric's name: MLflow allows few characters."""
    return re.sub(r"[^\w\-. ]", "_", text, flags=re.ASCII)


def _fetch(vectors: Vectors, words: set[str], case_insensitive: bool) -> dict[str, tuple[str, NDArray[np.float32]]]:
    """Return the most frequent id of each word that has one, and its vector."""
    if len(words) > _MAX_WORDS:
        raise ConfigError(f"{len(words):,} distinct words: need {_MAX_WORDS:,} or fewer; use a smaller file")
    fold = _fold(case_insensitive)
    if isinstance(vectors, LocalTable):
        part = vectors.take(np.array([row for row, name in enumerate(vectors.ids.to_pylist()) if fold(name) in words]))
        assert part.rows is not None
        ids, counts, matrix = part.ids.to_pylist(), part.column("count").to_pylist(), part.vectors[part.rows]
    else:
        matching = _matching(words, case_insensitive)
        rows = vectors.select("id", "vector", "count")
        table = rows.mapInArrow(matching, "id string, vector array<float>, count bigint").toArrow()
        ids, counts, matrix = table["id"].to_pylist(), table["count"].to_pylist(), to_matrix(table["vector"])
    order = sorted(range(len(ids)), key=lambda row: (1 if counts[row] is None else -counts[row], ids[row]))
    result: dict[str, tuple[str, NDArray[np.float32]]] = {}
    for row in order:
        result.setdefault(fold(ids[row]), (ids[row], matrix[row]))
    return result


def _matching(words: set[str], case_insensitive: bool) -> Callable[[Batches], Batches]:
    def matching(batches: Batches) -> Batches:
        fold = _fold(case_insensitive)
        for batch in batches:
            # Python's own rules of case, on both sides.
            rows = [row for row, name in enumerate(batch["id"].to_pylist()) if fold(name) in words]
            if rows:
                yield batch.take(rows)

    return matching
