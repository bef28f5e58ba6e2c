"""The demo's configurations, and what it prints; its runs are those of the kinds."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import typer
from rich.console import Console
from vector_tables import table

from embedall_spark import config, kinds, session
from embedall_spark.cli import app, demo, demo_summary


@pytest.mark.parametrize("kind", kinds.names())
def test_every_kind_has_its_part(kind):
    module = kinds.load(kind)
    found = config.load(module.Config, session.conf_file(f"demo-{kind}.yaml"))
    module.check(found)
    # The part shows the run's picture.
    (size,) = (value for name, value in found.evaluate if name.startswith("map_"))
    assert size == 300


def test_only_what_is_installed_is_asked_for(spark, capsys):
    rng = np.random.default_rng(3)
    vectors = table(spark, ["open", "len", *(f"f{i}" for i in range(8))], rng.normal(size=(10, 4)), range(10, 0, -1))
    demo._neighbours(Console(markup=False), vectors, ["len", "none", "open"], 4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["len", "open"]
    assert set(lines[2].replace(",", "").split()[1:]) == {"open", "f0", "f1"}
    demo._neighbours(Console(markup=False), vectors, ["none"], 4)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kinds", [["words", "images"], list(demo.PARTS)])
def test_the_tour_tells_of_what_was_run(kinds, capsys):
    found = {kind: {"rows": 1234, "table": f"out/{kind}", "mlflow_uri": "sqlite:////a/mlflow.db"} for kind in kinds}
    demo_summary.show(Console(markup=False, highlight=False, soft_wrap=True), "out", found)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24
    assert [line.split()[-1] for line in lines if " 1,234 " in f" {line.strip()} "] == [f"out/{kind}" for kind in kinds]
    tried = [line.partition("embedall ")[2].split() for line in lines if "bin/embedall" in line][:-1]
    assert len(tried) == min(5, 2 * len(kinds)) and {words[1] for words in tried} == {f"out/{kind}" for kind in kinds}
    commands = typer.main.get_command(app).commands
    for command, *arguments in tried:
        commands[command].make_context(command, shlex.split(" ".join(arguments)))
