"""Run a script several times in one process, as one Spark application: SCRIPT ARGUMENTS..., each a list in JSON.

Between runs, ``wait FILE`` waits until there is a file. Prints the exit code of each run and ends with the last one.
"""

import json
import runpy
import sys
import time
from pathlib import Path

script, *runs = sys.argv[1:]
for arguments in runs:
    if arguments.startswith("wait "):
        while not Path(arguments.removeprefix("wait ")).exists():
            time.sleep(0.05)
        continue
    sys.argv = [script, *json.loads(arguments)]
    try:
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    print(f"exit code {code}", flush=True)
sys.exit(code)
