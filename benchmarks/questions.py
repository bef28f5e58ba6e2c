"""Questions at the prompt: seconds and CPU seconds of the first, the next, and the same through Spark.

Each question is a process of its own. Seconds depend on what else the machine does, CPU seconds hardly: their ratio to
a question through Spark is compared.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import common
import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from embedall_spark.vectors import to_column

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES, QUICK_SIZES = (30_000, 1_000_000), (30_000,)
D = 100
GOALS = {"spark_over_first_30000": 5.0, "spark_over_next_30000": 10.0}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    options = parser.parse_args(arguments)
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="embedall-questions-") as work:
        _ask("help", work, "--help")
        for rows in QUICK_SIZES if options.quick else SIZES:
            table = f"{work}/vectors-{rows}"
            write_deltalake(table, _vectors(rows))
            question = ("similar", table, "id7", "id11")
            first = _ask(f"first of {rows:,}", work, *question)
            later = _ask(f"next of {rows:,}", work, *question)
            if rows == SIZES[0] or not options.quick:
                spark = _ask(f"Spark, {rows:,}", work, *question, "--limit", "0")
                ratios |= {f"spark_over_first_{rows}": spark / first, f"spark_over_next_{rows}": spark / later}
    print(common.result("questions", ratios, GOALS))


def _vectors(rows: int) -> pa.Table:
    """Return VECTORS of random directions."""
    matrix = np.random.default_rng(1).normal(size=(rows, D)).astype(np.float32)
    texts = {"kind": "words", "run_id": "benchmark"}
    return pa.table(
        {
            "id": [f"id{row}" for row in range(rows)],
            "vector": to_column(matrix),
            "norm": np.linalg.norm(matrix.astype(np.float64), axis=1),
            "count": np.arange(rows, 0, -1),
            **{name: pa.array([text] * rows) for name, text in texts.items()},
        }
    )


def _ask(what: str, work: str, *arguments: str) -> float:
    """Run the command, print what it took, and return its seconds."""
    code = "from embedall_spark import cli; cli.main()"
    before, since = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"XDG_CACHE_HOME": str(Path(work, "cache"))} if "--limit" not in arguments else None
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.perf_counter() - since
    # Without what Spark's JVM uses, which outlives the question's process.
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    common.say(what, seconds=seconds, cpu=cpu)
    return seconds


if __name__ == "__main__":
    main()
