"""The demo's configurations, and what it prints; its runs are those of the kinds."""

from __future__ import annotations

import io
import shlex

import numpy as np
import pytest
from rich.console import Console
from vector_tables import table

from embedall_spark import config, kinds, session
from embedall_spark.cli import demo, load
from embedall_spark.cli.demo import part, summary
from embedall_spark.cli.shared.console import console


@pytest.mark.parametrize("kind", kinds.names())
def test_every_kind_has_its_part(kind):
    module = kinds.load(kind)
    settings = config.load(module.Config, session.conf_file(f"demo-{kind}.yaml"))
    module.check(settings)
    assert kind in demo.PARTS
    # The part shows the run's picture.
    (size,) = (value for name, value in settings.evaluate if name.startswith("map_"))
    assert size == 300


def test_neighbors_are_shown_of_what_is_installed(spark, capsys):
    rng = np.random.default_rng(3)
    vectors = table(spark, ["open", "len", *(f"f{i}" for i in range(8))], rng.normal(size=(10, 4)), range(10, 0, -1))
    shown = part.Demo(console(), "out", None, None)
    lines = part.neighbors(shown, vectors, ["len", "none", "open"], 4)
    assert [name for name, _ in lines] == ["len", "open"]
    assert set(lines[0][1]) == {"open", "f0", "f1"}
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["len", "open"]
    assert part.neighbors(shown, vectors, ["none"], 4) == []
    assert capsys.readouterr().out == ""


def test_a_line_of_a_terminal_holds_what_fits(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    shown = Console(file=screen, force_terminal=True, width=30, color_system=None, soft_wrap=True)
    part.print_rows(
        part.Demo(shown, "out", None, None), "Near", [("a", ["b" * 40, "c"]), ("d", ["e" * 10, "f" * 10, "ggg"])]
    )
    assert screen.getvalue().splitlines()[2:] == [f"  a  {'b' * 40}", f"  d  {'e' * 10}, {'f' * 10}"]


@pytest.mark.parametrize("kinds", [["images", "words"], list(demo.PARTS)])
def test_the_summary_fits_a_screen_and_its_commands_exist(kinds, capsys):
    runs = {kind: {"rows": 1234, "table": f"out/{kind}", "mlflow_uri": "sqlite:////a/mlflow.db"} for kind in kinds}
    summary.show(console(), "out", runs)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24
    assert [line.split()[-1] for line in lines if " 1,234 " in f" {line.strip()} "] == [f"out/{kind}" for kind in kinds]
    tried = [line.partition("embedall ")[2].split() for line in lines if "bin/embedall" in line][:-2]
    assert len(tried) == min(5, 2 * len(kinds)) and {words[1] for words in tried} == {f"out/{kind}" for kind in kinds}
    for command, *arguments in tried:
        load(command).make_context(command, shlex.split(" ".join(arguments)))
