"""Runs from a packed environment without torch: FOLDER, then the arguments of a run of words. Prints what it saw.

test_standalone.py submits it; nothing of the repository is on its path, and nothing of torch in its environment.
"""

import json
import sys

import pyarrow as pa

import embedall_spark
from embedall_spark import cli, extras, session


def look(batches):
    from importlib.util import find_spec

    for _ in batches:
        where = [sys.prefix, embedall_spark.__file__, str(find_spec("torch"))]
        yield pa.RecordBatch.from_pylist([{"where": json.dumps(where)}])


def main(folder, *run):
    cli.main(["words", *run])
    needy = [["words", *run[:2], "--set", "train.workers=2", "--run-id", "two"]]
    needy += [["images", f"{folder}/pictures", f"{folder}/out/images"]]
    codes = [cli.call([*command]) for command in needy]
    # As on a driver that has what its tasks lack.
    extras.check = lambda *_: None
    codes += [cli.call([*command]) for command in needy]
    rows = session.get("look").range(0, 2, 1, 2).mapInArrow(look, "where string").collect()
    driver = [sys.prefix, embedall_spark.__file__]
    print(json.dumps({"codes": codes, "tasks": [json.loads(row.where) for row in rows], "driver": driver}))


if __name__ == "__main__":
    main(*sys.argv[1:])
