"""PecanPy in an environment of its own (make bench-env), since its pins clash with ours; prints JSON.

``pecanpy_peer.py walks GRAPH.npz P Q THREADS LENGTH STARTS``: steps per second of SparseOTF.
``pecanpy_peer.py embed EDGES.tsv P Q THREADS NUM_WALKS LENGTH WEIGHTED OUT.txt``: whole walks as text, for gensim.
"""

import gzip
import json
import shutil
import sys
import time
from pathlib import Path

import numba
import numpy as np
from numba_progress import ProgressBar
from pecanpy import pecanpy


def walks(file: str, p: str, q: str, threads: str, length: str, starts: str) -> dict[str, float]:
    """Return steps per second, compilation left out; walks start from vertices chosen at random."""
    numba.set_num_threads(int(threads))
    graph = pecanpy.SparseOTF(p=float(p), q=float(q), workers=int(threads), random_state=1)
    graph.read_npz(file, weighted=False)
    graph._preprocess_transition_probs()
    move, has_neighbors = graph.get_move_forward(), graph.get_has_nbrs()
    chosen = np.random.default_rng(0).permutation(graph.num_nodes)[: int(starts)].astype(np.uint32)

    def run(vertices: np.ndarray) -> np.ndarray:
        with ProgressBar(total=len(vertices), disable=True) as bar:
            return graph._random_walks(len(vertices), int(length), 1, vertices, has_neighbors, move, bar)

    run(chosen[:2])
    since = time.perf_counter()
    walks = run(chosen)
    seconds = time.perf_counter() - since
    # The last column holds the number of vertices in the walk.
    steps = int((walks[:, -1].astype(np.int64) - 1).sum())
    return {"steps_per_second": steps / seconds, "steps": steps}


def embed(
    file: str, p: str, q: str, threads: str, num_walks: str, length: str, weighted: str, out: str
) -> dict[str, float]:
    """Walk a whole undirected edge list and write the walks, a line each; return how many."""
    graph = pecanpy.SparseOTF(p=float(p), q=float(q), workers=int(threads), random_state=1)
    if file.endswith(".gz"):
        with gzip.open(file, "rb") as packed, Path(out).with_suffix(".tsv").open("wb") as plain:
            shutil.copyfileobj(packed, plain)
        file = str(Path(out).with_suffix(".tsv"))
    graph.read_edg(file, weighted=weighted == "1", directed=False)
    # Its length counts steps.
    walks = graph.simulate_walks(num_walks=int(num_walks), walk_length=int(length) - 1)
    with Path(out).open("w", encoding="utf-8") as lines:
        lines.writelines(" ".join(walk) + "\n" for walk in walks)
    return {"walks": len(walks)}


if __name__ == "__main__":
    print(json.dumps({"walks": walks, "embed": embed}[sys.argv[1]](*sys.argv[2:])))
