"""Forks Spark's Python workers from a process that has imported what they need; else each imports it again.

Spark runs this module in place of ``pyspark.daemon`` where ``spark.python.daemon.module`` names it; the package must be
installed on every host. torch is left out: it takes longer than all else together, and few stages need it.
"""

from __future__ import annotations

import gc
import re
import sys
from importlib.util import find_spec

# What Spark itself puts on Python's path; a user's archives stay there.
_ARCHIVE = re.compile(r"(^|/)(pyspark\.zip|py4j-[^/]*\.zip|spark-core_[^/]*\.jar)$")


def main() -> None:
    """Import libraries and compiled kernels, then fork a worker for each request until Spark closes standard input."""
    drop_archives()
    import numba  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.compute
    import pyarrow.fs  # noqa: F401
    from pyspark import daemon

    # Loading a kernel also sets up numba's types, which takes longer than importing numba.
    from embedall_spark.corpus import hash_table  # noqa: F401

    # Workers collect garbage after every task, and what they share with this process stays shared.
    gc.collect()
    gc.freeze()
    daemon.manager()  # type: ignore[no-untyped-call]


def drop_archives() -> None:
    """Take Spark's own zip files and jar off Python's path where pyspark is installed as a package.

    Each task calls ``importlib.invalidate_caches``, which reads the directory of every archive on the path anew: a
    quarter of a second, most of it for the jar, which holds no Python.
    """
    before = sys.path[:]
    sys.path[:] = [path for path in before if not _ARCHIVE.search(path)]
    if find_spec("pyspark") is None or find_spec("py4j") is None:
        sys.path[:] = [path for path in before if not (_ARCHIVE.search(path) and path.endswith(".jar"))]
    for path in {*before} - {*sys.path}:
        sys.path_importer_cache.pop(path, None)


if __name__ == "__main__":
    main()
