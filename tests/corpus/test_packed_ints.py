from __future__ import annotations

import itertools

import numpy as np
import pytest

from embedall_spark.corpus import packed_ints

EDGES = [0, 1, 255, 256, 65_535, 65_536, (1 << 24) - 1, 1 << 24, (1 << 31) - 1]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 17, 1000])
def test_packed_and_back(count):
    draw = np.random.default_rng(count)
    for values in (np.array(EDGES * 200)[:count], draw.integers(0, 1 << draw.integers(1, 31, count)), np.zeros(count)):
        packed = packed_ints.pack(values.astype(np.int64))
        actual = packed_ints.unpack(packed)
        assert actual.dtype == np.int32 and actual.flags.writeable
        np.testing.assert_array_equal(actual, values)


def test_frequent_tokens_take_little_more_than_a_byte():
    assert len(packed_ints.pack(np.arange(256))) == 4 + 256 / 4 + 256
    assert len(packed_ints.pack(np.arange(65_536))) == 4 + 65_536 / 4 + 256 + 2 * (65_536 - 256)


def test_plain_integers_of_earlier_versions():
    assert packed_ints.unpack(np.array([3, 1 << 30], np.int32).tobytes()).tolist() == [3, 1 << 30]
    assert packed_ints.unpack(np.array([0, 1 << 40]).tobytes(), np.int64).tolist() == [0, 1 << 40]
    assert packed_ints.unpack(b"").tolist() == []


def test_rows_of_a_column():
    values, bounds = np.arange(0, 3_000_000, 7), np.array([0, 0, 5, 6, 1000, 1000, len(range(0, 3_000_000, 7))])
    column = packed_ints.pack_parts(values, bounds)
    assert [packed_ints.unpack(row.as_buffer()).tolist() for row in column] == [
        values[start:stop].tolist() for start, stop in itertools.pairwise(bounds)
    ]
    actual, actual_bounds = packed_ints.unpack_parts(column[1:5])
    np.testing.assert_array_equal(actual, values[:1000])
    assert actual_bounds.tolist() == bounds[1:6].tolist()
    assert packed_ints.unpack_parts(column[:0])[1].tolist() == [0]
