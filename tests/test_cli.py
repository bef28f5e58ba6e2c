"""What the command prints and how it ends; without Spark."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cli_runner import embedall

from embedall_spark import cli, config, doctor, session
from embedall_spark.cli import run_kind
from embedall_spark.cli.shared import console, failure, options, table_snapshot
from embedall_spark.cli.shared.table_snapshot import TableSnapshot
from embedall_spark.errors import BadData
from embedall_spark.search import exact, spelling

WIDE = "a_name_that_nobody_cuts_" * 5
HITS = [("[/usr/lib]", 0.5), (WIDE, 0.25)]


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def no_spark(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("Spark was started")

    monkeypatch.setattr(session, "get", refuse)


def test_doctor_prints_brackets_as_they_are_and_each_line_as_it_is_known(monkeypatch, capsys):
    def checks():
        yield doctor.Check("Spark", False, "none in [/usr/lib]", "pip install 'embedall_spark[local]'")
        assert "[/usr/lib]" in capsys.readouterr().out
        yield doctor.Check("cores", True, WIDE, "")

    monkeypatch.setattr(doctor, "checks", checks)
    assert cli.call(["doctor"]) == 1
    assert capsys.readouterr().out == f"ok   cores: {WIDE}\n"


def test_config_cuts_nothing():
    lines = embedall("config", "words").output.splitlines()
    assert "train.window  int, default 5" in lines
    assert "evaluate.similarity  list[str], default []" in lines
    assert "vocabulary.max_vocabulary  int | null, default null" in lines
    assert "input.per  line | file, default line" in lines
    assert not [line for line in lines if "…" in line.split("  ")[0] or "embedall_spark" in line]
    assert max(len(line) for line in lines if line.startswith("    ")) <= 80


def test_neighbors_in_a_pipe_are_a_block_per_name(capsys):
    console.neighbors(["a", "[b]", "c"], [HITS, [("도시", 0.125)], []], "nothing")
    blocks = capsys.readouterr().out.split("\n\n")
    assert blocks[0].splitlines()[0] == "a"
    assert [line.split() for line in blocks[0].splitlines()[1:]] == [["1", "[/usr/lib]", "0.500"], ["2", WIDE, "0.250"]]
    assert blocks[1].splitlines() == ["[b]", "   1  도시  0.125"]
    assert blocks[2].splitlines() == ["c", "   nothing"]


def test_ids_from_the_data_stay_on_their_line(capsys):
    long = "ab" * 200
    console.neighbors(["two\nlines"], [[("a\tb\x1b[31m", 0.5), ("e\u202eg", 0.25), (long, 0.125)]], "nothing")
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading == "two\\nlines"
    assert [row.split()[1] for row in rows[:2]] == ["a\\tb\\x1b[31m", "e\\u202eg"]
    assert rows[2].split() == ["3", "ab" * 75, "…", "ab" * 20, "0.125"]
    assert console.printable("é 𝄞 \u200d नि") == "é 𝄞 \u200d नि"


def test_neighbors_in_a_terminal_are_side_by_side_where_they_fit(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    console.neighbors(["river", "city"], [HITS[:1], [("도시", 0.125), ("x", 0.1)]], "nothing")
    assert capsys.readouterr().out.splitlines() == [
        "river             city",
        "[/usr/lib] 0.500  도시 0.125",
        "                  x 0.100",
    ]
    console.neighbors(["river", "city"], [HITS, HITS], "nothing")
    assert capsys.readouterr().out.count(WIDE) == 2


def test_similar_answers_the_known_words_and_then_names_the_unknown(monkeypatch):
    monkeypatch.setattr(table_snapshot, "open_local", lambda *_: TableSnapshot(None, "table", None, "version"))
    monkeypatch.setattr(exact, "find_vectors", lambda *_: {"river": np.ones(2)})
    monkeypatch.setattr(exact, "top_k", lambda *_, **__: [[("lake", 0.5)]])
    calls = []
    monkeypatch.setattr(spelling, "unknown", lambda _, missing: calls.append(missing) or spelling.UnknownId("no such"))
    result = embedall("similar", "table", "rivre", "river", "citty", "river")
    assert result.output == "river\n   1  lake  0.500\n"
    assert (result.code, calls) == (1, [["rivre", "citty"]])
    assert "no such" in result.log


@pytest.mark.parametrize(
    ("error", "code", "status", "told"),
    [
        (BadData("of 3 rows [a]\nall are bad"), 3, "failed", "of 3 rows [a]\nall are bad"),
        (KeyboardInterrupt(), 130, "stopped", "stopped by the user"),
        (ZeroDivisionError("odd"), 1, "failed", "Traceback"),
    ],
)
def test_a_failed_run_tells_its_error_and_then_the_summary(monkeypatch, capfd, tmp_path, error, code, status, told):
    def launch(*_):
        raise error

    monkeypatch.setattr(run_kind, "launch", launch)
    assert cli.call(["words", "in", "out", "--summary", f"{tmp_path}/summary.json"]) == code
    out, log = capfd.readouterr()
    assert out.count("\n") == 1
    summary = json.loads(out)
    assert (summary["status"], summary["error"]) == (status, type(error).__name__)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert told in log
    assert ("Traceback" in log) == (code == 1)


@pytest.mark.parametrize(
    ("arguments", "table", "epochs"),
    [
        (["1.5", "out", "--set", "train.epochs=7"], "out", 7),
        (["1.5", "--config", "FILE"], "file", 3),
        (["1.5", "out", "--config", "FILE"], "out", 3),
        (["--set", "input.path='1.5'", "--set", "output.table=set", "--config", "FILE"], "set", 3),
    ],
)
def test_a_kind_takes_its_input_and_output_as_arguments(monkeypatch, tmp_path, arguments, table, epochs):
    from embedall_spark.kinds import words

    file = tmp_path / "words.yaml"
    file.write_text("input: {path: corpus}\noutput: {table: file}\ntrain: {epochs: 3}\n")
    launched = []
    monkeypatch.setattr(run_kind, "launch", lambda kind, path, overrides, _: launched.append((path, overrides)) or {})
    assert embedall("words", *(str(file) if text == "FILE" else text for text in arguments)).code == 0
    loaded = config.load(words.Config, *launched[0])
    assert (loaded.input.path, loaded.output.table, loaded.train.epochs) == ("1.5", table, epochs)


@pytest.mark.parametrize(("arguments", "missing"), [([], "INPUT and OUTPUT missing"), (["in"], "OUTPUT missing")])
@pytest.mark.usefixtures("no_spark")
def test_a_kind_without_input_or_output_says_how_to_give_them(arguments, missing):
    result = embedall("nodes", *arguments)
    assert result.code == 2
    assert f"{missing}; give both arguments (embedall nodes INPUT OUTPUT), or a YAML file" in result.log


def test_ctrl_c_while_spark_works_shows_no_stack(caplog):
    assert cli.call(["version"]) == 0
    for error in (KeyboardInterrupt(), OSError()):
        try:
            raise error
        except BaseException:
            logging.exception("while sending command")
    assert [record.exc_info[0] for record in caplog.records] == [OSError]


def test_the_summary_comes_after_the_error(monkeypatch):
    said = []
    monkeypatch.setattr(run_kind, "launch", lambda *_: (_ for _ in ()).throw(BadData("bad")))
    monkeypatch.setattr(failure.log, "error", lambda *_, **__: said.append("error"))
    monkeypatch.setattr(run_kind, "show_summary", lambda *_: said.append("summary"))
    assert embedall("words", "in", "out").code == 3
    assert said == ["error", "summary"]


@pytest.mark.usefixtures("no_spark")
def test_wrong_files_show_before_spark_starts(tmp_path):
    (tmp_path / "questions.txt").write_text(": part\none two three\n")
    assert embedall("evaluate", "table", "--analogies", tmp_path / "none.txt").code == 2
    assert embedall("evaluate", "table", "--analogies", tmp_path / "questions.txt").code == 3
    assert embedall("evaluate", "table", "--similarity", tmp_path / "questions.txt").code == 3
    result = embedall("words", "--summary", tmp_path / "none" / "summary.json")
    assert result.code == 2
    assert "there is no folder" in result.log


def test_only_the_called_command_is_imported_and_help_says_what_it_says():
    for name, (_, text) in cli.COMMANDS.items():
        assert cli.load(name).help.partition("\n\n")[0].replace("\n", " ") == text
    code = "import sys; from embedall_spark import cli; assert cli.call(['--help']) == 0; "
    code += "print(*{'pyspark', 'torch', 'mlflow', 'numba', 'pandas', 'pyarrow', 'numpy', 'pydantic'} & {*sys.modules})"
    lines = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert lines[-1] == ""
    assert sum(any(f" {name} " in line for name in cli.COMMANDS) for line in lines) >= len(cli.COMMANDS)


def test_a_question_imports_nothing_that_takes_longer_than_its_answer():
    code = "import sys; from embedall_spark import cli; "
    code += "[cli.load(name) for name in ('similar', 'search', 'analogy', 'suggest', 'explore')]; "
    code += "print(*{'numba', 'torch', 'mlflow', 'pandas', 'scipy', 'sklearn', 'matplotlib', 'faiss'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == ""


def test_the_shell_asks_its_table_line_by_line(monkeypatch, capsys):
    lines, calls = iter(["similar river -n 3", "", "version", "search 'open", "exit", "never"]), []
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    call = cli.call
    monkeypatch.setattr(cli, "call", lambda words: calls.append(words) or 0)
    assert call(["shell", "output/words"]) == 0
    assert calls == [["similar", "output/words", "river", "-n", "3"], ["version"]]
    assert "close the quote" in capsys.readouterr().err


def test_clean_wants_the_runs_folder(tmp_path):
    (tmp_path / ".runs").mkdir()
    result = embedall("clean", tmp_path / "none", "--keep", 2)
    assert result.code == 2
    assert "none: no such folder; give output.run_root" in result.log
    result = embedall("clean", tmp_path, "--keep", 2)
    assert result.code == 2
    assert f"give {tmp_path}/.runs" in result.log
    result = embedall("clean", f"{tmp_path}/.runs/", "--keep", 2)
    assert result.code == 0
    assert result.output.startswith("0 runs cleaned, ")


def test_plurals():
    assert [console.count(number, "run") for number in (0, 1, 1200)] == ["0 runs", "1 run", "1,200 runs"]


def test_words_that_begin_with_a_dash_get_a_hint(capfd):
    for command in ("similar", "analogy"):
        assert cli.call([command, "table", "-dash"]) == 2
        text = " ".join(capfd.readouterr().err.replace("│", "").split())
        assert f"give a word that begins with a dash after --: embedall {command} TABLE -- -word" in text
    # The other options of a wrong command are told as before.
    assert cli.call(["similar", "table", "a", "--master"]) == 2
    assert "requires an argument" in capfd.readouterr().err


def test_columns_to_show_come_in_one_form():
    assert options.split_columns(["label, tags", "price", "tags", ""]) == ["label", "tags", "price"]


@pytest.mark.usefixtures("no_spark")
def test_export_refuses_paths_before_spark_starts(tmp_path):
    for path, why in [(tmp_path, "is a folder"), ("", "has an empty name")]:
        result = embedall("export", "table", path)
        assert (result.code, why in result.log) == (2, True), result.log


def test_sigterm_ends_a_command_as_ctrl_c_does(monkeypatch, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(run_kind, "launch", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(60))
    summary = tmp_path / "summary.json"
    try:
        with pytest.raises(SystemExit) as end:
            cli.main(["words", "--summary", str(summary), "--set", "input.path=x", "--set", "output.table=y"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 143
    assert json.loads(summary.read_text())["status"] == "stopped"


def test_success_is_no_system_exit():
    cli.main(["version"])
    with pytest.raises(SystemExit) as end:
        cli.main(["config", "unknown"])
    assert end.value.code == 2


def test_a_job_whose_spark_submit_is_killed_ends_as_by_sigterm(tmp_path):
    """spark-submit alone gets a scheduler's signal; here a process that starts the job as spark-submit does."""
    job = (
        "import sys, time; from embedall_spark import cli; from embedall_spark.cli import run_kind\n"
        "run_kind.launch = lambda *_: (print('started', flush=True), time.sleep(60))\n"
        "cli.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", job, "words", "in", "out", "--summary", str(tmp_path / "summary.json")]
    parent = f"import subprocess; subprocess.run({command})"
    environment = {**os.environ, "PYSPARK_GATEWAY_PORT": "1"}
    with subprocess.Popen([sys.executable, "-c", parent], env=environment, stdout=subprocess.PIPE) as submit:
        assert submit.stdout is not None
        assert submit.stdout.readline() == b"started\n"
        submit.kill()
        # The job holds the other end of the pipe until it ends.
        submit.stdout.read()
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "stopped"
