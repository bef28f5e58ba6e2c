"""Embed words under spark-submit: the same as ``embedall words``.

spark-submit --properties-file conf/spark-standalone.conf --load-spark-defaults
    jobs/words.py --config conf/words.yaml --run-id NIGHT
"""

import sys

from embedall_spark.cli import main

if __name__ == "__main__":
    main(["words", *sys.argv[1:]])
