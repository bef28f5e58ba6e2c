"""What test_standalone.py submits: tasks that say which GPU Spark has assigned to them; the folder is the argument."""

import json
import sys
import time
from pathlib import Path

import pyarrow as pa
from pyspark import BarrierTaskContext
from pyspark.sql import SparkSession

from embedall_spark import devices


def task(folder, together):
    def run(batches):
        for batch in batches:
            begun = time.time()
            Path(folder, str(batch[0][0])).touch()
            # All of them are at work at once, or this gives up.
            while len(list(Path(folder).iterdir())) < together and time.time() < begun + 120:
                time.sleep(0.1)
            time.sleep(0.3)
            row = {"device": devices.task_device("cuda:9"), "begun": begun, "ended": time.time()}
            yield pa.RecordBatch.from_pylist([row])

    return run


spark = SparkSession.builder.getOrCreate()  # noqa: TID251
said = {}
for name, gpus, together in (("session", None, 4), ("stage", 1.0, 2)):
    folder = Path(sys.argv[1], name)
    folder.mkdir()
    tasks = spark.range(0, 4, 1, 4)
    schema, profile = "device string, begun double, ended double", devices.resource_profile(spark, gpus)
    rows = tasks.mapInArrow(task(str(folder), together), schema, profile=profile).collect()
    said[name] = {"rows": [tuple(row) for row in rows], "threads": devices.threads(spark, gpus)}


def barrier(batches):
    for _ in batches:
        pass
    BarrierTaskContext.get().barrier()
    yield pa.RecordBatch.from_pylist([{"device": devices.task_device()}])


tasks, profile = spark.range(0, 2, 1, 2), devices.training_profile(spark, "cuda")
rows = tasks.mapInArrow(barrier, "device string", barrier=True, profile=profile).collect()
said["training"] = sorted(row.device for row in rows)
print(json.dumps(said))
