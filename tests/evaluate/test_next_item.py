"""Held-out items and their ranks by three systems, against the same in plain Python."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from fake_run import FakeRun

from embedall_spark.corpus import blocking, encoded_pages, last_item_holdout, packed_ints, vocabulary
from embedall_spark.corpus.vocabulary import VocabularyConfig
from embedall_spark.evaluate import next_item, skipgram_ranking
from embedall_spark.randomness import mix
from embedall_spark.schemas import SEQUENCES
from embedall_spark.train.config import TrainConfig

SEED, SHARE = 3, 0.6


def stories(count=150, seed=2):
    """Return {id: items}: frequent and rare items, repeats, and stories of one."""
    draw = np.random.default_rng(seed)
    return {
        int(draw.integers(-(2**62), 2**62)): [f"i{int(item)}" for item in draw.zipf(1.4, size) % 60]
        for size in draw.integers(1, 15, count)
    }


def plain_split(data, share, most, reach):
    """Return the held-out (draw, context, answer) rows and what is left of every story."""
    chosen = []
    for key, items in data.items():
        draw = mix(SEED, key) >> 1
        context = items[:-1][-reach:]
        if draw < share * 2**63 and len(items) > 1 and items[-1] not in context:
            chosen.append((draw, key, context, items[-1]))
    chosen = sorted(chosen)[:most]
    held = {key for _, key, _, _ in chosen}
    return chosen, {key: items[:-1] if key in held else items for key, items in data.items()}


class Prepared:
    """Stages over the toy stories, and random vectors for their vocabulary."""

    def __init__(self, spark, folder, config, most=1000):
        self.config = config
        self.run = FakeRun(spark, folder)
        table = spark.createDataFrame(list(stories().items()), SEQUENCES).repartition(3)
        whole = self.run.stage("pages", lambda: encoded_pages.from_sequences(table))
        self.held, kept = last_item_holdout.split(self.run, whole, SHARE, most, next_item.reach(config), SEED)
        self.items = vocabulary.build(self.run, kept, VocabularyConfig(min_count=3))
        self.folder = self.run.stage_path("vocabulary")
        self.blocks = self.run.stage("blocks", lambda: blocking.from_pages(kept, self.folder, 3))
        self.names = [row.token for row in self.items.orderBy("id").collect()]
        self.counts = [row["count"] for row in self.items.orderBy("id").collect()]
        draw = np.random.default_rng(8)
        self.inputs, self.outputs = draw.normal(size=(2, len(self.names), 6)).astype(np.float32)
        rows = [
            (name, inputs.tolist(), outputs.tolist(), 1.0, count)
            for name, inputs, outputs, count in zip(self.names, self.inputs, self.outputs, self.counts, strict=True)
        ]
        schema = "id string, vector array<float>, context array<float>, norm double, count bigint"
        self.vectors = spark.createDataFrame(rows, schema).repartition(3)

    def evaluate(self):
        return next_item.evaluate(self.held, self.vectors, self.blocks, self.items, self.folder, self.config)


def plain_scores(prepared, left):
    """Return each system's scores of all items for a context of (id, weight) pairs, as functions."""
    config, counts = prepared.config, np.array(prepared.counts, float)
    place = {name: at for at, name in enumerate(prepared.names)}
    met = np.zeros((len(counts), len(counts)))
    for items in left.values():
        known = [place[item] for item in items if item in place]
        for at, one in enumerate(known):
            for distance, other in enumerate(known[at + 1 : at + 1 + config.window], 1):
                weight = config.window - distance + 1 if config.shrink_windows else 1
                met[one, other] += weight
                met[other, one] += weight
    similar = met / counts[:, None] / counts[None, :] ** 0.25
    bias = config.ns_exponent * np.log(counts)
    return {
        "next_item": lambda pairs: sum(w * prepared.inputs[at] for at, w in pairs) @ prepared.outputs.T + bias,
        "popularity": lambda pairs: -np.arange(len(counts), dtype=float),
        "cooccurrence": lambda pairs: sum(w * similar[at] for at, w in pairs).astype(np.float32),
    }


def plain_figures(prepared, chosen, left):
    place = {name: at for at, name in enumerate(prepared.names)}
    ranks = defaultdict(list)
    for system, score in plain_scores(prepared, left).items():
        for _, _, context, answer in chosen:
            pairs = [
                (place[item], 1 / distance**2 if prepared.config.shrink_windows else 1.0)
                for distance, item in enumerate(reversed(context), 1)
                if item in place
            ]
            rank = 10**9
            if pairs and answer in place:
                total = sum(weight for _, weight in pairs)
                scores = score([(at, weight / total) for at, weight in pairs])
                order = sorted(set(range(len(scores))) - {at for at, _ in pairs}, key=lambda at: (-scores[at], at))
                rank = order.index(place[answer]) if system != "cooccurrence" or scores[place[answer]] > 0 else 10**9
            ranks[system].append(rank)
    figures = {}
    for system, places in ranks.items():
        for cut in (10, 20):
            figures[f"{system}/hit_rate_{cut}"] = np.mean([rank < cut for rank in places])
            figures[f"{system}/mrr_{cut}"] = np.mean([1 / (rank + 1) if rank < cut else 0 for rank in places])
    return figures


@pytest.mark.parametrize("options", [{"window": 3}, {"window": 30, "shrink_windows": False, "ns_exponent": -0.5}])
def test_figures_against_plain_python(spark, tmp_path, monkeypatch, options):
    # Several rounds of so many stories each.
    monkeypatch.setattr(skipgram_ranking, "_MAX_BYTES", 8 * 6 * 31 * 40)
    prepared = Prepared(spark, tmp_path, TrainConfig(vector_size=6, **options))
    chosen, left = plain_split(stories(), SHARE, 1000, next_item.reach(prepared.config))
    held = prepared.held.orderBy("draw").collect()
    assert [(row.draw, row.id, row.context, row.answer) for row in held] == chosen
    assert len(chosen) > 40 and len(prepared.names) < len({item for items in left.values() for item in items})
    counts = Counter(item for items in left.values() for item in items)
    assert dict(zip(prepared.names, prepared.counts, strict=True)) == {k: v for k, v in counts.items() if v >= 3}
    actual, expected = prepared.evaluate(), plain_figures(prepared, chosen, left)
    assert sorted(actual) == sorted(next_item.figures())
    assert actual == pytest.approx(expected, abs=1e-9)
    assert 0 < actual["next_item/mrr_10"] < actual["cooccurrence/mrr_10"]


def test_so_many_stories_at_most_lose_their_last_item(spark, tmp_path):
    prepared = Prepared(spark, tmp_path, TrainConfig(vector_size=6, window=3), most=7)
    chosen, left = plain_split(stories(), SHARE, 7, 3)
    assert [row.id for row in prepared.held.orderBy("draw").collect()] == [key for _, key, _, _ in chosen]
    assert sum(prepared.counts) == sum(
        count for count in Counter(item for items in left.values() for item in items).values() if count >= 3
    )


def test_nothing_is_held_out(spark, tmp_path):
    run = FakeRun(spark, tmp_path)
    table = encoded_pages.from_sequences(spark.createDataFrame([(1, ["a", "b", "a"]), (2, ["a"])], SEQUENCES))
    held, kept = last_item_holdout.split(run, table, 1.0, 10, 5, SEED)
    assert held.isEmpty()  # one's last item stands in its context, the other has no context
    assert sum(packed_ints.unpack(row.counts)[0] for row in kept.collect()) == 3
    config = TrainConfig()
    assert next_item.evaluate(held, None, None, None, "", config) == {}
