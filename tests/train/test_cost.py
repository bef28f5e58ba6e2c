"""The cost model: parts by hand, and how it bounds the episodes."""

import pytest

from embedall_spark.train import cost, plan
from embedall_spark.train.config import TrainConfig

RATES = cost.Rates(kernel=1e8, windows=1e6, network=1e9, storage=1e8, start=2.0, rendezvous=3.0)


def test_parts_by_hand():
    epoch = cost.Epoch(10_000_000, 100, 4_000_000_000, workers=4, threads=2, episodes=8, slices=3)
    assert cost.seconds(epoch, RATES) == pytest.approx(
        {
            "train": 10_000_000 * 100 / (1e8 * 8),
            "start": 6.0,
            "rendezvous": 9.0,
            "checkpoint": 3 * 2 * 1e9 / 1e8,
            "windows": 10_000_000 / (1e6 * 8),
            # 32 s, of which training hides 1.25.
            "exchange": 8 * 4.0 - 1.25,
        }
    )
    assert cost.seconds(epoch._replace(episodes=0), RATES)["exchange"] == 0
    assert set(cost.seconds(epoch._replace(workers=1), RATES)) == {"train", "start", "checkpoint"}


def test_a_large_model_on_little_text_goes_round_less_often():
    def episodes(vocabulary, tokens, **options):
        corpus = plan.Corpus(vocabulary, tokens, 0.9 * tokens, 10_000)
        return plan.make_plan(corpus, TrainConfig(workers=16, vector_size=300, **options), 16).episodes

    assert episodes(10_000_000, 10**11, slice_tokens=10**12, spool_bytes=1 << 50) == 16
    # 12 GB a round are 12 s, and the training of a billion tokens takes 16 s.
    assert episodes(10_000_000, 10**9, slice_tokens=10**12, spool_bytes=1 << 50) == 4
    assert episodes(10_000_000, 10**9, slice_tokens=10**12, spool_bytes=1 << 50, episodes=12) == 12
