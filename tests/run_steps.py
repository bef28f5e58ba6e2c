"""Runs documents in the working folder, in one process, so that Spark is started once.

Reads steps as JSON: [{"document": ..., "code": ...} or {"document": ..., "command": [...]}, ...]. Prints the seconds of
each step, and writes what went wrong in each document to results.json. After a failure the rest of it is left out.
"""

import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path

from embedall_spark.cli import call


class Errors(logging.Handler):
    """Keeps the last errors that were logged."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


def run(step, names):
    """Run one step; raise what goes wrong."""
    os.environ.update(step.get("environment", {}))
    if "code" in step:
        exec(compile(step["code"], step["document"], "exec"), names)
    elif (code := call(step["command"])) != 0:
        raise RuntimeError(f"{' '.join(step['command'])}: exit code {code}: {' '.join(errors.lines[-3:])}")


errors = Errors()
logging.getLogger().addHandler(errors)
failed, names = {}, {}
for step in json.load(sys.stdin):
    document = step["document"]
    if document in failed:
        continue
    begun, cpu = time.monotonic(), sum(os.times()[:4])
    try:
        run(step, names.setdefault(document, {"__name__": "__main__"}))
    except Exception:
        failed[document] = traceback.format_exc()
    what = " ".join(step.get("command", [step.get("code", "")[:40].replace("\n", " ")]))
    print(f"{time.monotonic() - begun:6.1f} s  {document}: {what}", flush=True)
Path("results.json").write_text(json.dumps(failed))
