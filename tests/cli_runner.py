"""The command as a user calls it, in this process and over the session that is running."""

from __future__ import annotations

import io
import json
import logging
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple


class Result(NamedTuple):
    """What a command left: its exit code, what it printed, and what it logged."""

    code: int
    output: str
    log: str

    @property
    def summary(self) -> dict:
        """The last line of the output."""
        return json.loads(self.output.splitlines()[-1])


def embedall(*arguments: object) -> Result:
    """Run the command in this process, over the session that is running."""
    from embedall_spark import cli

    package, output, log = logging.getLogger("embedall_spark"), io.StringIO(), io.StringIO()
    before = list(package.handlers), package.level, package.propagate
    try:
        with redirect_stdout(output), redirect_stderr(log):
            code = cli.call([str(argument) for argument in arguments])
    finally:
        package.handlers[:], package.level, package.propagate = before
    return Result(code, output.getvalue(), log.getvalue())
