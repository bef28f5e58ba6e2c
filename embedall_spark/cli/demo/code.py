"""The demo's parts about Python code: words of docstrings, calls inside functions, modules that import each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedall_spark import progress
from embedall_spark.cli.demo.part import Part, embed, heading, layout, neighbors, print_rows, save
from embedall_spark.search import analogy
from embedall_spark.visualize.results_sheet import Lines, Map

if TYPE_CHECKING:
    from embedall_spark.cli.demo.part import Demo

# Words that everyday English knows otherwise: their neighbors show what the text is about.
_WORDS = (
    *("array", "dataframe", "gradient", "probability", "kernel", "tree"),
    *("thread", "exception", "cookie", "socket", "unicode", "plot", "monday", "deprecated"),
)
_CALLS = (
    *("numpy.zeros", "os.path.join", "json.loads", "re.compile", "open", "threading.Thread", "time.time"),
    *("subprocess.run", "hashlib.sha256", "math.sqrt", "datetime.datetime.now", "torch.nn.Linear", ".fit", ".append"),
)
_MODULES = (
    *("numpy.linalg", "pandas", "torch.nn", "sklearn.cluster", "matplotlib.pyplot", "pyspark.sql", "asyncio"),
    *("threading", "sqlite3", "json", "re", "argparse"),
)
# Neighbors come from so many most frequent ids: rarer ones are names that only their authors know.
_KNOWN_WORDS, _KNOWN_CALLS, _KNOWN_MODULES = 8000, 2000, 2000
_ANALOGIES = (
    ("rows", "row", "columns"),
    ("min", "max", "lower"),
    ("read", "reader", "write"),
    ("encode", "decode", "serialize"),
    ("numpy", "array", "pandas"),
    ("x", "y", "width"),
)


def words(demo: Demo) -> Part:
    """Embed the words of docstrings."""
    assert demo.code is not None
    heading(demo, "Words: the text of docstrings")
    lines: list[tuple[str, list[str]]] = []
    summary, vectors = embed(
        demo, "words", "words", demo.code.docstrings, "words",
        lambda vectors: lines.extend(neighbors(demo, vectors, _WORDS, _KNOWN_WORDS)),
    )  # fmt: skip
    with progress.activity("searching"):
        answers = analogy.answer(vectors, _ANALOGIES, 3, restrict=_KNOWN_WORDS)
    questions = [f"{a} is to {b} as {c} is to" for a, b, c in _ANALOGIES]
    print_rows(
        demo,
        "Analogies (3CosAdd)",
        [(text, [name for name, _ in hits]) for text, hits in zip(questions, answers, strict=True)],
    )
    save(demo, summary, {})
    return Part(summary, Lines("Words of docstrings and their nearest neighbors", lines))


def sequences(demo: Demo) -> Part:
    """Embed what functions call, one call after the other."""
    assert demo.code is not None
    heading(demo, "Sequences: the calls inside each function")
    summary, _ = embed(
        demo, "sequences", "calls", demo.code.calls, "different calls",
        lambda vectors: neighbors(demo, vectors, _CALLS, _KNOWN_CALLS),
    )  # fmt: skip
    save(demo, summary, {})
    return Part(summary, None)


def nodes(demo: Demo) -> Part:
    """Embed modules by what they import."""
    assert demo.code is not None
    heading(demo, "Nodes: which module imports which")
    summary, vectors = embed(
        demo, "nodes", "nodes", demo.code.imports, "modules",
        lambda vectors: neighbors(demo, vectors, _MODULES, _KNOWN_MODULES),
    )  # fmt: skip
    figures = summary["metrics"]
    demo.console.print(
        "The package of a module, predicted from its vector by a classifier trained on half of the modules: micro F1"
        f" {figures['classification/micro_f1_50']:.2f}"
        f" (always the largest package: {figures['classification/majority_micro_f1_50']:.2f})"
        f"\nOf a module's 10 nearest neighbors, {figures['purity/neighbours']:.0%} are in its own package"
        f" (by chance {figures['purity/chance']:.0%})"
    )
    save(demo, summary, {})
    names, places = layout(vectors)
    groups = [name.split(".")[0] for name in names]
    return Part(summary, Map("Python modules, placed by what they import", places, names, groups))
