"""Embed the items of sequences under spark-submit: the same as ``embedall sequences``.

spark-submit --properties-file conf/spark-standalone.conf --load-spark-defaults
    jobs/sequences.py --config conf/sequences.yaml --run-id NIGHT
"""

import sys

from embedall_spark.cli import main

if __name__ == "__main__":
    main(["sequences", *sys.argv[1:]])
