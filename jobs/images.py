"""Embed images under spark-submit: the same as ``embedall images``.

spark-submit --properties-file conf/spark-gpu.conf --load-spark-defaults
    jobs/images.py --config conf/images.yaml --run-id NIGHT
"""

import sys

from embedall_spark.cli import main

if __name__ == "__main__":
    main(["images", *sys.argv[1:]])
