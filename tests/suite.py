"""How the suite runs: files shared out over processes, the longest first, and its time per folder beside the budget."""

from __future__ import annotations

import os
import re
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Of a process with its JVM and Python workers.
_PROCESS_BYTES = 5 << 30
# The longest files. What starts last should be short, so that all processes end together.
LONGEST = (
    "tests/test_standalone.py",
    "tests/test_docs_commands.py",
    "tests/test_latent_end_to_end.py",
    "tests/test_s3.py",
    "tests/test_words_end_to_end.py",
    "tests/test_kill_and_resume.py",
    "tests/test_cli_search.py",
    "tests/ml/test_connect.py",
    "tests/test_publication.py",
    "tests/test_images_end_to_end.py",
    "tests/test_nodes_end_to_end.py",
    "tests/train/test_trainer.py",
    "tests/test_published_latent.py",
    "tests/ml/test_word2vec.py",
    "tests/ml/test_kinds.py",
    "tests/test_databricks.py",
    "tests/images/test_train_backbone.py",
    "tests/test_sequences_end_to_end.py",
    "tests/test_hdfs.py",
    "tests/test_subwords_end_to_end.py",
)


def budgets() -> dict[str, int]:
    """Return the seconds that each folder may take, from the table in docs/contributing.md."""
    text = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(tests\S*)` \| ([\d,]+) \|", text, re.MULTILINE)
    return {folder: int(seconds.replace(",", "")) for folder, seconds in rows}


def folder_of(nodeid: str) -> str:
    """Return the folder of a test, ``tests`` for those at the top."""
    return nodeid.partition("::")[0].rpartition("/")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Spark as slow, since a session alone takes seconds; put the longest files first."""
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(LONGEST)))


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return twice as many processes as cores, since each waits for half of its time; fewer in little memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(2, min(2 * (os.cpu_count() or 1), memory // _PROCESS_BYTES))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give whole files to processes, so that what a file's tests share is made once; in the order of collection."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the seconds of each folder beside its budget, and of the longest files; nothing for a single folder."""
    folders: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for report in chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            folders[folder_of(report.nodeid)] += report.duration
            files[report.nodeid.partition("::")[0]] += report.duration
    if len(folders) < 2:
        return
    allowed = budgets()
    terminalreporter.section("seconds per folder, of all processes")
    for folder, seconds in folders.most_common():
        budget = allowed.get(folder)
        text = "no budget" if budget is None else f"budget {budget}{', OVER' if seconds > budget else ''}"
        terminalreporter.write_line(f"{seconds:7.1f}  {folder}  ({text})")
    terminalreporter.section("the longest files")
    for file, seconds in files.most_common(15):
        terminalreporter.write_line(f"{seconds:7.1f}  {file}")
