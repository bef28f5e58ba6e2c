"""node2vec: our whole job beside PecanPy's walks and gensim's Word2Vec, quality on the same splits, in turns.

Ten walks of 80 vertices from each vertex, d=128, window 10, 3 epochs, 2 threads; node classification as in the paper.
``--rmat`` measures the time alone, on a power-law graph with 10 million edges, one walk from each vertex and one epoch.
Needs make bench-env and the shared graphs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import common
import graphs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from embedall_spark.evaluate import node_classification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Vectors = tuple[list[str], NDArray[np.float32]]

GRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "graphs"
PEER = Path(__file__).resolve().parents[1] / ".bench-env" / "bin" / "python"
# DeepWalk, and what the node2vec paper found best on the graph where it has it (section 4.3).
SETTINGS = {
    "blogcatalog": [(1.0, 1.0), (0.25, 0.25)],
    "wiki_openne": [(1.0, 1.0), (0.25, 4.0)],
    "cora": [(1.0, 1.0), (0.25, 4.0)],
    "facebook_pages": [(1.0, 1.0), (0.25, 4.0)],
    "wiki_cooc_20k": [(1.0, 1.0), (4.0, 1.0)],
}
WEIGHTED = {"wiki_cooc_20k"}
# Of the others, facebook_pages takes the peers a quarter of an hour, wiki_cooc_20k hours.
USUAL = ["blogcatalog", "wiki_openne", "cora"]
NUM_WALKS, LENGTH, DIM, WINDOW, EPOCHS = 10, 80, 128, 10, 3
SHARES, SPLITS = (0.1, 0.5, 0.9), 10
GOALS = {
    "blogcatalog_macro_f1_50": 0.26,
    **{f"{graph}_{name}_minus_pecanpy": -0.01 for graph in USUAL for name in ("micro_f1_50", "macro_f1_50")},
}
RMAT_SLOTS, RMAT_EDGES, RMAT_P, RMAT_Q = 1 << 20, 10_000_000, 0.25, 4.0
# Of two walks from each vertex, of 10 in the paper; figures of such vectors differ by some hundredths from run to run.
QUICK_WALKS, QUICK_EPOCHS, QUICK_SPLITS = 2, 1, 3
QUICK_GOALS = {f"cora_{name}_minus_pecanpy": -0.05 for name in ("micro_f1_50", "macro_f1_50")}


class Work(NamedTuple):
    """What both sides do: a graph's edges, and how they walk and train on it."""

    edges: str
    p: float
    q: float
    weighted: bool
    num_walks: int = NUM_WALKS
    epochs: int = EPOCHS


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--graphs", nargs="+", choices=SETTINGS, default=USUAL)
    parser.add_argument("--rmat", action="store_true", help="seconds on a power-law graph, in place of the others")
    parser.add_argument(
        "--gensim", nargs=3, metavar=("WALKS", "SAVE", "EPOCHS"), help="train gensim on walks, a line each"
    )
    options = parser.parse_args(arguments)
    if options.gensim:
        print(json.dumps(train_gensim(*options.gensim)))
        return
    ratios: dict[str, float] = {}
    if not options.rmat and not GRAPHS.exists():
        print("no graphs: the shared data are not beside this checkout", flush=True)
    elif not PEER.exists():
        print("pecanpy is not installed: nothing to compare with; make bench-env brings it", flush=True)
    elif not common.absent("gensim"):
        if not options.quick:
            common.announce(30)
        with tempfile.TemporaryDirectory(prefix="embedall-nodes-") as work:
            if options.rmat:
                ratios = rmat(Path(work), options.quick)
            for graph in [] if options.rmat else ["cora"] if options.quick else options.graphs:
                ratios |= compare(graph, Path(work), options.quick)
    goals = {} if options.rmat else QUICK_GOALS if options.quick else GOALS
    print(common.result("nodes", ratios, goals))


def compare(graph: str, work: Path, quick: bool) -> dict[str, float]:
    """Return our figures on one graph, of its last setting, and how they differ from the peer's."""
    ratios: dict[str, float] = {}
    size = (QUICK_WALKS, QUICK_EPOCHS) if quick else (NUM_WALKS, EPOCHS)
    for index, (p, q) in enumerate(SETTINGS[graph][: 1 if quick else None]):
        folder = work / f"{graph}-{index}"
        folder.mkdir()
        work_of = Work(edges_of(graph), p, q, graph in WEIGHTED, *size)
        # Only the figures of quality hold while the other side runs too.
        with ThreadPoolExecutor(2 if quick else 1) as executor:
            sides = [executor.submit(side, work_of, folder) for side in (our_vectors, peer_vectors)]
            splits = QUICK_SPLITS if quick else SPLITS
            ours, peers = (judged(graph, *side.result(), splits) for side in sides)
        common.say(f"{graph} p={p} q={q} ours", **ours)
        common.say(f"{graph} p={p} q={q} pecanpy + gensim", **peers)
        if not quick:
            ratios[f"{graph}_seconds_over_ours"] = peers["seconds"] / ours["seconds"]
        for name in ("micro_f1_50", "macro_f1_50"):
            ratios[f"{graph}_{name}"] = ours[name]
            ratios[f"{graph}_{name}_minus_pecanpy"] = ours[name] - peers[name]
    return ratios


def rmat(work: Path, quick: bool) -> dict[str, float]:
    """Return how many times longer the peers take for a whole job on a power-law graph."""
    ends = graphs.rmat(RMAT_SLOTS >> 5, RMAT_EDGES >> 5) if quick else graphs.rmat(RMAT_SLOTS, RMAT_EDGES)
    file = work / "edges.tsv"
    csv.write_csv(
        pa.table([ends[:, 0], ends[:, 1]], ["a", "b"]), file, csv.WriteOptions(include_header=False, delimiter="\t")
    )
    del ends
    job = Work(str(file), RMAT_P, RMAT_Q, False, num_walks=1, epochs=1)
    (ids, _), ours = our_vectors(job, work)
    common.say("rmat ours", vertices=len(ids), seconds=ours)
    (ids, _), peers = peer_vectors(job, work)
    common.say("rmat pecanpy + gensim", vertices=len(ids), seconds=peers)
    return {"rmat_seconds_over_ours": peers / ours}


def our_vectors(work: Work, folder: Path) -> tuple[Vectors, float]:
    """Return the vectors of ``embedall nodes`` in a process of its own, and its seconds."""
    values = {
        "input.path": work.edges, "output.table": folder / "nodes", "walks.num_walks": work.num_walks,
        "walks.walk_length": LENGTH, "walks.p": work.p, "walks.q": work.q, "train.vector_size": DIM,
        "train.window": WINDOW, "train.epochs": work.epochs, "train.threads": common.THREADS, "evaluate.map_nodes": 0,
        **({"input.weight": "weight"} if work.weighted else {}),
    }  # fmt: skip
    overrides = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    master = f"local[{common.THREADS}]"
    done = common.measured(common.embedall("nodes", "--master", master, *overrides))
    table = pq.read_table(folder / "nodes", columns=["id", "vector"], partitioning=None)
    return (table["id"].to_pylist(), common.matrix(table["vector"])), done.seconds


def peer_vectors(work: Work, folder: Path) -> tuple[Vectors, float]:
    """Return the vectors of PecanPy and gensim, and the seconds of both processes together."""
    from gensim.models import KeyedVectors

    walks, saved = folder / "walks.txt", folder / "vectors"
    values = [work.edges, work.p, work.q, common.THREADS, work.num_walks, LENGTH, int(work.weighted), walks]
    script = str(Path(__file__).with_name("pecanpy_peer.py"))
    walked = common.measured([str(PEER), script, "embed", *map(str, values)], limit=7200)
    train = common.this_python(__file__, "--gensim", str(walks), str(saved), str(work.epochs))
    trained = common.measured(train, limit=7200)
    vectors = KeyedVectors.load(str(saved))
    return (vectors.index_to_key, vectors.vectors), walked.seconds + trained.seconds


def train_gensim(walks: str, save: str, epochs: str) -> dict[str, Any]:
    """Train as PecanPy's command does."""
    from gensim.models import Word2Vec

    model = Word2Vec(
        corpus_file=walks, vector_size=DIM, window=WINDOW, sg=1, min_count=0, workers=common.THREADS,
        epochs=int(epochs), seed=1,
    )  # fmt: skip
    model.wv.save(save)
    return {"vocabulary": len(model.wv)}


def edges_of(graph: str) -> str:
    """Return the file of a graph's edges."""
    return str(next((GRAPHS / graph).glob("edges.tsv*")))


def judged(graph: str, vectors: Vectors, seconds: float, splits: int) -> dict[str, float]:
    """Return F1 of node classification for each share, and the seconds."""
    lines = (GRAPHS / graph / "labels.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t")[:2] for line in lines]
    place = {name: at for at, name in enumerate(vectors[0])}
    labeled = sorted({name for name, _ in pairs if name in place})
    kinds = {label: at for at, label in enumerate(sorted({label for _, label in pairs}))}
    row = {name: at for at, name in enumerate(labeled)}
    member = np.zeros((len(labeled), len(kinds)), dtype=bool)
    for name, label in pairs:
        if name in row:
            member[row[name], kinds[label]] = True
    scores = node_classification.learn(vectors[1][[place[name] for name in labeled]], member, SHARES, splits, seed=1)
    figures = {"seconds": seconds}
    for share, result in zip(SHARES, scores, strict=True):
        figures |= {
            f"micro_f1_{share * 100:g}": result.vectors.micro,
            f"macro_f1_{share * 100:g}": result.vectors.macro,
        }
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
