"""Run a script several times in one process, as one Spark application: SCRIPT ARGUMENTS..., each a list in JSON.

Prints the exit code of each run and ends with the last one.
"""

import json
import runpy
import sys

script, *runs = sys.argv[1:]
for arguments in runs:
    sys.argv = [script, *json.loads(arguments)]
    try:
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    print(f"exit code {code}", flush=True)
sys.exit(code)
