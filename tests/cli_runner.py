"""The command as a user calls it, in this process and over the session that is running."""

from __future__ import annotations

import io
import json
import logging
import re
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest


class Result(NamedTuple):
    """What a command left: its exit code, what it printed, and what it logged."""

    code: int
    output: str
    log: str

    @property
    def summary(self) -> dict:
        """The last line of the output."""
        return json.loads(self.output.splitlines()[-1])


def answered_alike(*arguments: object) -> Result:
    """Ask a question without Spark and through it; return the result, which must be the same."""
    from embedall_spark.cli.shared import table_snapshot

    def refuse(*_: object) -> None:
        raise AssertionError("needs Spark")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_snapshot, "open_snapshot", refuse)
        here = embedall(*arguments)
    in_spark = embedall(*arguments, "--limit", 0)
    assert _timeless(here) == _timeless(in_spark)
    return here


def _timeless(result: Result) -> Result:
    """Return a result without the time of day in its log."""
    return result._replace(log=re.sub(r"(?m)^\S+ \S+ ", "", result.log))


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
