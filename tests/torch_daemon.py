"""Spark's Python daemon for tests: it has imported torch as well, which would take each worker four seconds.

Spark ends workers that were idle for a minute, and most tests with pictures come later than that.
"""

from embedall_spark import python_daemon

python_daemon.drop_archives()

from embedall_spark.images import featurize, vision_library  # noqa: E402, F401

if __name__ == "__main__":
    python_daemon.main()
