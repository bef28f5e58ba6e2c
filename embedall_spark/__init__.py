"""Embed all the things: words, sequences, graphs and images, as a distributed batch workflow on Spark."""

import os
import tempfile

from embedall_spark import user_cache

__version__ = "0.1.0"

# Before numba is imported, in every process: beside an installed package it may find no place to keep kernels in.
os.environ.setdefault("NUMBA_CACHE_DIR", str(user_cache.folder("numba") or tempfile.mkdtemp(prefix="embedall-numba-")))
