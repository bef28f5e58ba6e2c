"""Run scripts in one process, as one Spark application: COMMANDS..., each a list in JSON of a script and its arguments.

Between runs, ``wait FILE`` waits until there is a file. Prints for each run its exit code, and when it began and ended
in seconds since 1970; ends with the last code.
"""

import json
import runpy
import sys
import time
from pathlib import Path

for command in sys.argv[1:]:
    if command.startswith("wait "):
        while not Path(command.removeprefix("wait ")).exists():
            time.sleep(0.05)
        continue
    sys.argv = json.loads(command)
    begun = time.time()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    print(f"exit code {code} {begun} {time.time()}", flush=True)
sys.exit(code)
