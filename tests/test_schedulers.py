"""The examples for schedulers: DAGs are executed with stand-ins for Airflow, and their arguments parsed by the command.

Airflow itself is not installed; names of operators and parameters are those of its providers' documentation
(apache-spark 5, databricks 7).
"""

from __future__ import annotations

import re
import shlex
import sys
from contextlib import nullcontext
from types import ModuleType

import pytest
import typer
from doc_blocks import ROOT, blocks

from embedall_spark import cli, config, kinds, path_checks

GUIDE = ROOT / "docs" / "guide" / "schedulers.md"
DAGS = [block.body for block in blocks(GUIDE) if block.language == "python"]
TASK = {"task_id", "retries", "retry_delay"}
OPERATORS = {
    "airflow.providers.apache.spark.operators.spark_submit.SparkSubmitOperator": TASK
    | {"application", "application_args", "conf", "conn_id", "deploy_mode", "env_vars", "name", "properties_file"},
    "airflow.providers.databricks.operators.databricks.DatabricksRunNowOperator": TASK
    | {"databricks_conn_id", "job_id", "job_name", "python_params"},
}
RUN_ID = "scheduled__2026-11-28T00:00:00+00:00"


@pytest.fixture
def tasks(monkeypatch):
    """What the operators of a DAG were called with."""
    calls = []

    def module(name):
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        return sys.modules[name]

    module("airflow").DAG = lambda *_, **__: nullcontext()
    for path, allowed in OPERATORS.items():
        parts = path.split(".")
        for depth in range(1, len(parts)):
            module(".".join(parts[:depth]))

        def operator(allowed=allowed, **options):
            assert options.keys() <= allowed
            calls.append(options)

        setattr(module(".".join(parts[:-1])), parts[-1], operator)
    return calls


def check(kind, arguments):
    """Parse the arguments of a kind's command, check its run id and its options."""
    command = cli.load(kind)
    options = command.make_context(kind, list(arguments)).params
    path_checks.check_run_id(options["run_id"])
    overrides = [*options["overrides"]]
    overrides += [f"input.path={options['source'] or 'x'}", f"output.table={options['table'] or 'a/b'}"]
    config.load(kinds.load(kind).Config, None, overrides)
    return options


@pytest.mark.parametrize("body", DAGS, ids=lambda body: body.split("\n")[0])
def test_a_dag_calls_a_job_with_arguments_that_it_takes(tasks, body):
    exec(compile(body, "dag", "exec"), {})
    (task,) = tasks
    arguments = [
        part.replace("{{ run_id }}", RUN_ID) for part in task.get("application_args", task.get("python_params"))
    ]
    assert not any("{{" in part for part in arguments)
    assert check("words", arguments)["run_id"] == f"{RUN_ID}-words"
    for key in ("application", "properties_file"):
        if key in task:
            assert (ROOT / task[key].removeprefix("/opt/embeddings/")).is_file()


def test_crontab_has_commands_that_exist():
    (crontab,) = [block.body for block in blocks(GUIDE) if block.language == "cron"]
    names = []
    for line in crontab.splitlines()[1:]:
        schedule, command = re.fullmatch(r"((?:\S+ ){5})(.+)", line).groups()
        assert re.fullmatch(r"(?:(?:\d+|\*) ){5}", schedule)
        assert not re.search(r"(?<!\\)%", command), "a bare % ends the command"
        command = re.sub(r"\$\(date \+\\%F\)", "2026-11-28", command)
        program, name, *arguments = shlex.split(command.partition(" >>")[0])
        assert program.endswith("/embedall")
        names.append(name)
        if name in kinds.names():
            assert check(name, arguments)["run_id"] == "night-2026-11-28"
        else:
            typer.main.get_command(cli.app)
            cli.load(name).make_context(name, arguments)
    assert names == ["words", "clean"]
