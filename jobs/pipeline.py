"""Run a pipeline, or one step of it, under spark-submit: the same as ``embedall pipeline``.

spark-submit --properties-file conf/spark-standalone.conf --load-spark-defaults
    jobs/pipeline.py conf/pipeline.yaml --step words
"""

import sys

from embedall_spark.cli import main

if __name__ == "__main__":
    main(["pipeline", *sys.argv[1:]])
