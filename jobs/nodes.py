"""Embed the nodes of a graph under spark-submit: the same as ``embedall nodes``.

spark-submit --properties-file conf/spark-standalone.conf --load-spark-defaults
    jobs/nodes.py --config conf/nodes.yaml --run-id NIGHT
"""

import sys

from embedall_spark.cli import main

if __name__ == "__main__":
    main(["nodes", *sys.argv[1:]])
