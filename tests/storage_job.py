"""Commands in one process and over one session: a JSON list of argument lists; a line of JSON for each.

``bits TABLE`` prints a table's vectors to the last bit.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from cli_runner import embedall
from vector_tables import bits

from embedall_spark import session, tables

for command in json.loads(sys.argv[1]):
    if command[0] == "bits":
        said = {
            "bits": {name: str(value) for name, value in bits(tables.read(session.get("bits"), command[1])).items()}
        }
    else:
        result = embedall(*command)
        said = {"code": result.code, "output": result.output, "log": result.log}
    print(json.dumps(said), flush=True)
