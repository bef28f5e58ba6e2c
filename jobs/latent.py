"""Bring two kinds into one latent space under spark-submit: the same as ``embedall latent``.

spark-submit --properties-file conf/spark-gpu.conf --load-spark-defaults
    jobs/latent.py --config conf/latent.yaml --run-id NIGHT
"""

import sys

from embedall_spark.cli import main

if __name__ == "__main__":
    main(["latent", *sys.argv[1:]])
