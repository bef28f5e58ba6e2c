"""The streaming cut of sorted events against a plain one, on random events in random batches."""

import random
import tracemalloc
from decimal import Decimal
from itertools import groupby

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chisquare

from embedall_spark.corpus.session_windows import Events, SessionWindows
from embedall_spark.corpus.stories_config import StoriesConfig
from embedall_spark.randomness import mix

SEED = 7


def batches(events, sizes):
    """Return (group, item, copies, order) rows as batches of some sizes."""
    start = 0
    while start < len(events):
        part = events[start : start + next(sizes)]
        groups, items, copies, orders = zip(*part, strict=True)
        columns = [
            pa.array(groups, pa.int64()), pa.array(items), pa.array(copies, pa.int32()),
            pa.array(orders, pa.decimal128(38, 6)),
        ]  # fmt: skip
        yield pa.RecordBatch.from_arrays(columns, names=["group", "item", "copies", "order"])
        start += len(part)


def cut(events, config, sizes):
    windows = SessionWindows(config, SEED)
    out = [rows for batch in batches(events, sizes) for part in Events.of(batch) for rows in windows.add(part)]
    rows = [row for batch in [*out, *windows.finish()] for row in batch.to_pylist()]
    return [(row["id"], row["tokens"]) for row in rows]


def signed(value):
    return value - 2**64 if value >= 2**63 else value


def plain(events, config):
    """The same by the book, a key at a time."""
    rows = []
    for group, stories in groupby(events, key=lambda row: row[0]):
        sessions, last = [], None
        for _, item, copies, order in stories:
            if last is None or (config.session_gap is not None and order - last > Decimal(str(config.session_gap))):
                sessions.append([])
            last = order
            for _ in range(copies):
                if not (config.drop_repeats and sessions[-1] and sessions[-1][-1] == item):
                    sessions[-1].append(item)
        for number, items in enumerate(sessions):
            windows = [items[start : start + config.max_length] for start in range(0, len(items), config.max_length)]
            numbered = list(enumerate(windows))
            if config.too_long == "sample":
                chosen = min(range(len(windows)), key=lambda window: mix(SEED, group, number, window))
                last = chosen == len(windows) - 1
                numbered = [(chosen, items[-config.max_length :] if last else windows[chosen])]
            elif len(windows) > 1 and len(windows[-1]) < config.min_length:
                numbered[-2:] = [(len(windows) - 2, windows[-2] + windows[-1])]
            rows += [
                (signed(mix(group, number, window)), part)
                for window, part in numbered
                if len(part) >= config.min_length
            ]
    return rows


def drawn(draw, keys):
    """Return sorted events of some keys, with equal orders, equal items, copies, long and short stories."""
    rows = []
    for group in sorted(draw.randint(-(2**63), 2**63 - 1) for _ in range(keys)):
        count = draw.choice([1, 2, 5, 40])
        orders = sorted(Decimal(draw.randint(-50, 50)) / draw.choice([1, 1000]) for _ in range(count))
        scale = draw.choice([1, 10**24])
        rows += sorted((group, f"i{draw.randint(0, 3)}", draw.choice([1, 1, 1, 3]), order * scale) for order in orders)
    return sorted(rows, key=lambda row: (row[0], row[3], row[1]))


@pytest.mark.parametrize("too_long", ["sample", "split"])
@pytest.mark.parametrize("drop_repeats", [False, True])
@pytest.mark.parametrize("gap", [None, 0.5, 20])
def test_against_the_plain_cut(too_long, drop_repeats, gap):
    draw = random.Random(f"{too_long} {drop_repeats} {gap}")
    for _ in range(60):
        shortest = draw.randint(1, 3)
        config = StoriesConfig(
            session_gap=gap, drop_repeats=drop_repeats, too_long=too_long, min_length=shortest,
            max_length=draw.choice([3, 4, 7, 1000]),
        )  # fmt: skip
        events = drawn(draw, draw.randint(1, 8))
        sizes = [draw.randint(1, draw.choice([1, 2, 9, 500])) for _ in events]
        sequences = cut(events, config, iter(sizes))
        assert sorted(sequences) == sorted(plain(events, config))


def test_a_robot_is_sampled_in_bounded_memory():
    """A million events of one key, of which a window of 50 stands for all: the state never grows."""
    config = StoriesConfig(max_length=50)
    windows, numbers = SessionWindows(config, SEED), np.arange(10_000)
    out, peaks = [], []
    tracemalloc.start()
    for start in range(0, 1_000_000, len(numbers)):
        items = pa.array(numbers + start).cast(pa.string())
        out += windows.add(Events(np.zeros(len(numbers), np.int64), items, None))
        assert sum(len(window.items) for window in (windows._open, windows._chosen)) <= 100
        peaks.append(tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes())
    tracemalloc.stop()
    assert max(peaks[50:]) < max(peaks[:50]) + 100_000
    assert out == []
    (last,) = windows.finish()
    (tokens,) = last["tokens"].to_pylist()
    places = [int(token) for token in tokens]
    assert places == list(range(places[0], places[0] + 50)) and places[0] % 50 == 0
    best = min(range(20_000), key=lambda number: mix(SEED, 0, 0, number))
    assert places[0] == best * 50


@pytest.mark.parametrize(("length", "longest"), [(25, 10), (11, 10), (30, 10), (101, 4)])
def test_each_event_has_the_chance_that_is_promised(length, longest):
    """Many keys' stories of one length: 1/n for each event, 2/n where the last two of n windows overlap."""
    keys, number = 20_000, -(-length // longest)
    windows = SessionWindows(StoriesConfig(max_length=longest), SEED)
    items = pa.array([str(at) for at in range(length)] * 1000)
    out = []
    for first in range(0, keys, 1000):
        groups = np.repeat(np.arange(first, first + 1000), length)
        out += windows.add(Events(groups, items, None))
    stories = [tokens for batch in [*out, *windows.finish()] for tokens in batch["tokens"].to_pylist()]
    assert len(stories) == keys and {len(tokens) for tokens in stories} == {min(length, longest)}
    drawn = np.bincount([int(tokens[0]) for tokens in stories], minlength=length)
    starts = [min(start, max(0, length - longest)) for start in range(0, length, longest)]
    assert set(np.flatnonzero(drawn)) == set(starts)
    assert chisquare(drawn[starts]).pvalue > 1e-4
    counts = np.bincount([int(token) for tokens in stories for token in tokens], minlength=length)
    chances = np.zeros(length)
    for start in starts:
        chances[start : start + longest] += 1 / number
    # Six standard deviations.
    assert (np.abs(counts - keys * chances) <= 6 * np.sqrt(keys * chances * (1 - chances).clip(0)) + 1e-6).all()
    assert counts.min() > 0.8 * keys / number


@pytest.mark.parametrize("length", [2, 10, 11, 12, 13, 23, 40])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_split_keeps_every_event(length, batch):
    windows = SessionWindows(StoriesConfig(max_length=10, min_length=3, too_long="split"), SEED)
    items, out = pa.array([str(item) for item in range(length)]), []
    for start in range(0, length, batch):
        part = items[start : start + batch]
        out += windows.add(Events(np.zeros(len(part), np.int64), part, None))
    stories = [tokens for rows in [*out, *windows.finish()] for tokens in rows["tokens"].to_pylist()]
    assert [item for tokens in stories for item in tokens] == (items.to_pylist() if length >= 3 else [])
    assert all(3 <= len(tokens) < 10 + 3 for tokens in stories)


def test_nothing_comes_of_nothing():
    assert list(SessionWindows(StoriesConfig(), SEED).finish()) == []
