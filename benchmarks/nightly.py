"""Thirty nights of one pipeline: text and events arrive a share a day, some days are broken, readers must not notice.

The first day has half of all. What is held back, what fails and what is killed is part of the plan; see DAYS.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import common
import numpy as np
import sequences
import yaml

from embedall_spark import cli, session, tables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyspark.sql import SparkSession

EVENTS = "wikispeedia_paths"
FIGURE = "similarity/wordsim353"
GOALS = {
    "cost_early_over_late": 0.66,  # CPU seconds of the nights, medians of the first and the last third
    "published_over_floor": 1.0,
    "days_as_planned": 1.0,
    "ten_seconds_over_rollback": 1.0,
    "counts_right": 1.0,
}
QUICK = ("days_as_planned", "counts_right")
OVERLAP = 0.6
"""Least share of neighbors that stay, of a night that starts from the published vectors."""
COLORS, OTHER = {0: "#4c78a8", 3: "#9d9d9d", 4: "#e45756"}, "#9d9d9d"
# For little data, compiling each plan takes longer than running it.
SPARK = """
spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:MetaspaceSize=256m
spark.sql.shuffle.partitions 2
spark.sql.adaptive.enabled false
spark.sql.codegen.wholeStage false
spark.sql.codegen.factoryMode NO_CODEGEN
"""


class Day(NamedTuple):
    """One night: what happened, and what it cost."""

    number: int
    event: str
    code: int
    planned: bool
    """Whether code and published version are what the plan says."""
    cpu: float
    seconds: float
    candidate: float
    published: float
    version: int
    overlap: float
    reused: int
    vocabulary: int


class Nights:
    """The folders of the simulation, and the days so far."""

    def __init__(self, work: Path, corpus: Path, days: int, master: str) -> None:
        """Divide text and events into days."""
        self.work, self.master, self.days = work, master, list[Day]()
        lines = corpus.read_text(encoding="utf-8").splitlines()
        half = len(lines) // 2
        self.text = [lines[:half], *_shares(lines[half:], days - 1)]
        stories = list(sequences.events(EVENTS))
        half = len(stories) // 2
        self.events = [stories[:half], *_shares(stories[half:], days - 1)]
        for name in ("corpus", "events"):
            (work / name).mkdir()
        self.file, self.properties = work / "pipeline.yaml", work / "spark.conf"
        self.properties.write_text(session.conf_file("spark-local.conf").read_text() + SPARK)

    def configure(self, dim: int, epochs: int | None, floor: float, overlap: float) -> None:
        """Write the pipeline; each night starts from what is published, and the first one from nothing."""
        from gensim.test.utils import datapath

        rated = [datapath("wordsim353.tsv")]
        train = {"vector_size": dim, "threads": common.THREADS, "context": True}
        train |= {} if epochs is None else {"epochs": epochs}
        words, pages = (f"{self.work}/output/published_{name}" for name in ("words", "pages"))
        steps = {
            "words": {
                "run": "words",
                "input": {"path": f"{self.work}/corpus", "incremental": True},
                "output": {"table": f"{self.work}/output/words"},
                "train": {**train, "start": words},
                "evaluate": {"similarity": rated, "map_words": 0},
            },
            "publish_words": {
                "run": "publish",
                "candidate": "${words}",
                "to": words,
                "gates": {"floors": {FIGURE: floor}, "max_drop": 0.05, "max_new": 0.2, "min_overlap": overlap},
                "evaluate": {"similarity": rated},
            },
            "pages": {
                "run": "sequences",
                "input": {
                    "path": f"{self.work}/events", "format": "csv", "order": "order", "incremental": True,
                },
                "output": {"table": f"{self.work}/output/pages"},
                "train": {**train, "start": pages},
                "evaluate": {"map_items": 0},
            },
            "publish_pages": {
                "run": "publish",
                "candidate": "${pages}",
                "to": pages,
            },
        }  # fmt: skip
        self.file.write_text(yaml.safe_dump({"steps": steps}, sort_keys=False))

    def text_file(self, day: int) -> Path:
        """Return the file of a day's text."""
        return self.work / "corpus" / f"day-{day:02}.txt"

    def deliver(self, day: int) -> None:
        """Write a day's text and events."""
        self.text_file(day).write_text("\n".join(self.text[day]) + "\n", encoding="utf-8")
        sequences.write(self.work / "events" / f"day-{day:02}.csv", ("key", "item", "order"), iter(self.events[day]))

    @property
    def spark(self) -> SparkSession:
        """The session in which the nights run."""
        return session.get("nightly", master=self.master, properties=self.properties)

    @property
    def command(self) -> list[str]:
        """The arguments of the command that runs a night."""
        return ["pipeline", str(self.file), "--master", self.master, "--properties", str(self.properties)]

    def run(self) -> tuple[int, dict[str, Any]]:
        """Run the pipeline in this process; return its exit code and its summary."""
        output = io.StringIO()
        with redirect_stdout(output):
            code = cli.call(self.command)
        return code, json.loads(output.getvalue().splitlines()[-1])

    def version(self) -> int:
        """Return the version of the published words, -1 before the first."""
        version = tables.version(self.spark, f"{self.work}/output/published_words")
        return -1 if version is None else version


def _empty(nights: Nights, day: int) -> None:
    nights.text_file(day).write_text("")
    (nights.work / "events" / f"day-{day:02}.csv").write_text("")


def _half(nights: Nights, day: int) -> None:
    nights.deliver(day)
    packed = gzip.compress(nights.text_file(day).read_bytes())
    nights.text_file(day).unlink()
    nights.text_file(day).with_suffix(".txt.gz").write_bytes(packed[: len(packed) // 2])


def _explode(nights: Nights, day: int) -> None:
    nights.deliver(day)
    random = np.random.default_rng(day)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    strange = ["".join(row) for row in random.choice(letters, (30_000, 12))] * 5
    random.shuffle(strange)
    nights.text_file(day).with_suffix(".log").write_text("\n".join(" ".join(strange[i::150]) for i in range(150)))


def _sort(nights: Nights, day: int) -> None:
    nights.deliver(day)
    # Somebody's job has sorted the words of each document, in all that there was before.
    for earlier in range(day + 1):
        if nights.text_file(earlier).exists():
            lines = nights.text_file(earlier).read_text().splitlines()
            nights.text_file(earlier).write_text("\n".join(" ".join(sorted(line.split())) for line in lines) + "\n")


def _kill(nights: Nights, day: int) -> None:
    """Start the pipeline as a process of its own and kill it while the words are being trained."""
    nights.deliver(day)
    runs = nights.work / "output" / ".runs"
    known = set(runs.iterdir())
    with subprocess.Popen(
        common.embedall(*nights.command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        until = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < until:
            new = [run for run in runs.iterdir() if run not in known and run.name.startswith("words-")]
            if any((run / "stages" / "blocks.json").exists() for run in new):
                break
            time.sleep(0.2)
        for pid in reversed(common._tree(process.pid)):
            os.kill(pid, signal.SIGKILL)


# Share of all days at which it happens, what arrives, and the exit code of that night.
DAYS: list[tuple[float, str, Callable[[Nights, int], None], int]] = [
    (0.25, "empty input", _empty, 0),
    (0.4, "half a file", _half, 3),
    (0.55, "30,000 strange words", _explode, 4),
    (0.7, "driver killed", _kill, 0),
    (0.85, "sorted words", _sort, 4),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--days", type=int, help="default: 30; with --quick 7")
    parser.add_argument("--dim", type=int, default=50)
    parser.add_argument("--epochs", type=int, help="of each night; default: 5 in the first and 1 in the others")
    parser.add_argument("--floor", type=float, default=0.3, help="least Spearman correlation with WordSim-353")
    parser.add_argument("--picture", type=Path, help="write a picture of the days to this file (PNG)")
    options = parser.parse_args(arguments)
    days = options.days or (7 if options.quick else 30)
    ratios: dict[str, float] = {}
    if not sequences.SHARED.exists():
        print("no corpus: the shared data are not beside this checkout", flush=True)
    elif not common.absent("gensim"):
        with tempfile.TemporaryDirectory(prefix="embedall-nightly-") as work:
            tokens = options.tokens or (300_000 if options.quick else 3_000_000)
            corpus = common.corpus(options.corpus, tokens, work)
            if corpus is not None:
                if not options.quick:
                    common.announce(35)
                nights = Nights(Path(work), corpus, days, f"local[{common.THREADS}]")
                # So little text gives no quality, and each day changes much of it.
                floor, overlap = (-1.0, 0.0) if options.quick else (options.floor, OVERLAP)
                nights.configure(options.dim, options.epochs, floor, overlap)
                try:
                    ratios = simulate(nights, days, floor, quick=options.quick)
                finally:
                    # Also of the days before Ctrl-C.
                    if options.picture is not None and nights.days:
                        draw(nights.days, floor, overlap, options.picture)
    goals = {name: goal for name, goal in GOALS.items() if not options.quick or name in QUICK}
    print(common.result("nightly", ratios, goals))


def simulate(nights: Nights, days: int, floor: float, *, quick: bool) -> dict[str, float]:
    """Live through the days; return what the goals are about."""
    # In a minute there is no time for a second JVM, nor enough text for a quality.
    plan = {
        round(share * days): (name, arrive, code)
        for share, name, arrive, code in DAYS
        if not quick or arrive not in (_kill, _sort)
    }
    repair = False
    for number in range(days):
        if repair:
            _mend(nights, number - 1)
        name, arrive, code = plan.get(number, ("", Nights.deliver, 0))
        arrive(nights, number)
        nights.days.append(_night(nights, number, name, code))
        common.say(f"day {number + 1}", **nights.days[-1]._asdict())
        repair = bool(name)
    good = [day for day in nights.days[1:] if not day.event]
    third = max(1, len(good) // 3)
    seconds = _rollback(nights)
    early, late = (float(np.median([day.cpu for day in part])) for part in (good[:third], good[-third:]))
    return {
        "cost_early_over_late": early / late,
        "published_over_floor": min(day.published for day in nights.days) / floor,
        "days_as_planned": float(np.mean([day.planned for day in nights.days])),
        "ten_seconds_over_rollback": 10 / seconds,
        "counts_right": _counts_right(nights, days),
    }


def _night(nights: Nights, number: int, event: str, wanted: int) -> Day:
    """Run the pipeline for a day and return what came of it."""
    before, last = nights.version(), nights.days[-1] if nights.days else None
    cpu, since = common.cpu_seconds(), time.monotonic()
    code, summary = nights.run()
    steps, version = summary["steps"], nights.version()
    published = steps["publish_words"].get("metrics", {})
    planned = code == wanted and version == before + (0 if wanted else 1)
    # Whatever happens to the text, the events of the night are published.
    planned &= steps["publish_pages"]["status"] == "done"
    return Day(
        number, event, code, planned,
        cpu=common.cpu_seconds() - cpu,
        seconds=time.monotonic() - since,
        candidate=steps["words"].get("metrics", {}).get(FIGURE, float("nan")),
        published=published.get(FIGURE, last.published if last else float("nan")),
        version=version,
        overlap=published.get("publish/overlap_10", float("nan")),
        reused=steps["words"].get("reused", {}).get("files_reused", 0),
        vocabulary=steps["words"].get("rows", 0),
    )  # fmt: skip


def _mend(nights: Nights, day: int) -> None:
    """Deliver again what was broken the day before."""
    for file in (nights.work / "corpus").glob("*"):
        if file.suffix in (".gz", ".log"):
            file.unlink()
    for earlier in range(day + 1):
        lines = "\n".join(nights.text[earlier]) + "\n"
        if not nights.text_file(earlier).exists() or nights.text_file(earlier).read_text() != lines:
            nights.deliver(earlier)


def _rollback(nights: Nights) -> float:
    """Go back a version and forth again; return the seconds of the slower one."""
    table, newest = f"{nights.work}/output/published_words", nights.version()
    taken = []
    for version in (newest - 1, newest):
        since = time.monotonic()
        assert cli.call(["rollback", table, "--to", str(version)]) == 0
        taken.append(time.monotonic() - since)
    common.say("rollback", seconds=taken)
    return max(taken)


def _counts_right(nights: Nights, days: int) -> float:
    """Return the share of words whose count in the published table is that of all days' text."""
    wanted = Counter(word for day in range(days) for line in nights.text[day] for word in line.split())
    rows = tables.read(nights.spark, f"{nights.work}/output/published_words").select("id", "count").collect()
    actual = {row["id"]: row["count"] for row in rows}
    frequent = {word: count for word, count in wanted.items() if count >= 5}
    return float(np.mean([actual.get(word) == frequent.get(word) for word in frequent | actual]))


def draw(days: list[Day], floor: float, overlap: float, file: Path) -> None:
    """Draw the cost, the quality and the drift of the days."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained")
    cost, quality, drift = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [4, 3, 2]})
    numbers, top = [day.number + 1 for day in days], max(day.cpu for day in days)
    colors = [COLORS.get(day.code, OTHER) for day in days]
    cost.bar(numbers, [day.cpu for day in days], color=colors)
    cost.set_ylabel("CPU seconds of the night")
    cost.set_ylim(0, 2.3 * top)
    for day in days:
        if day.event:
            text = f"{day.event}: " + {0: "published", 3: "failed", 4: "held back"}.get(day.code, f"exit {day.code}")
            cost.text(day.number + 1, day.cpu + 0.04 * top, text, rotation=90, fontsize=8, ha="center", va="bottom")
            for axes in (quality, drift):
                axes.axvline(day.number + 1, color="black", linewidth=0.5, alpha=0.3)
    quality.step(numbers, [day.published for day in days], where="mid", color=COLORS[0], label="what readers see")
    for code, marker, label in ((0, "o", "candidate, published"), (4, "x", "candidate, held back")):
        chosen = [day for day in days if day.code == code]
        places, figures = [day.number + 1 for day in chosen], [day.candidate for day in chosen]
        quality.plot(places, figures, marker, color=COLORS[code], label=label)
    quality.axhline(floor, color="black", linestyle=":", label="floor")
    quality.set_ylabel("WordSim-353, Spearman")
    quality.legend(loc="lower right", fontsize=8)
    drift.plot(numbers, [day.overlap for day in days], "o", color=COLORS[0])
    drift.axhline(overlap, color="black", linestyle=":")
    drift.set_ylabel("neighbors that stay")
    drift.set_ylim(0, 1)
    drift.set_xlabel("day")
    figure.savefig(file, dpi=110)


def _shares(rows: list[Any], parts: int) -> list[list[Any]]:
    """Return rows in parts of about the same length."""
    bounds = [len(rows) * part // parts for part in range(parts + 1)]
    return [rows[start:stop] for start, stop in pairwise(bounds)]


if __name__ == "__main__":
    main()
