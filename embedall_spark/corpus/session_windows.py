"""A key's events, as they stream by, to sequences: sessions, repeats and greatest lengths. Knows no Spark."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedall_spark.randomness import mix_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from embedall_spark.corpus.stories_config import StoriesConfig

# Events that are repeated at once, where some are: 100 times as many items must fit into one array.
_REPEATED = 1024
_ARROW = pa.schema([pa.field("id", pa.int64()), pa.field("tokens", pa.list_(pa.string()))])


class Events(NamedTuple):
    """Events in their order."""

    groups: NDArray[np.int64]
    """Hash of each event's key; neighbours of equal hash are of one key."""
    items: pa.StringArray
    order: NDArray[np.uint64] | None
    """Millionths, uint64 [n, 2]: the low and the high half of 128 bits; None where no pause counts."""

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Iterator[Events]:
        """Yield the events of a batch, each as often as it counts."""
        counts = batch.column("copies").to_numpy()
        step = batch.num_rows if (counts == 1).all() else _REPEATED
        for start in range(0, batch.num_rows, max(1, step)):
            part = batch.slice(start, step)
            order = None
            if "order" in part.schema.names:
                column = part.column("order")
                halves = np.frombuffer(column.buffers()[1], np.uint64).reshape(-1, 2)
                order = halves[column.offset : column.offset + len(column)]
            events = cls(part.column("group").to_numpy(), part.column("item"), order)
            times = counts[start : start + step]
            yield events if (times == 1).all() else events.take(np.repeat(np.arange(len(times)), times))

    def take(self, rows: NDArray[np.int64]) -> Events:
        """Return the events at some places."""
        order = None if self.order is None else self.order[rows]
        return Events(self.groups[rows], self.items.take(pa.array(rows)), order)


class _Stretch(NamedTuple):
    """Up to ``max_length`` events of a session, as they are held between batches."""

    group: int
    session: int
    number: int
    lead: int
    """How many of the items are of the stretch before, and fill this one up."""
    items: pa.StringArray


class _Cut(NamedTuple):
    """Events cut into stretches; one row per stretch, int64 [n]."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    groups: NDArray[np.int64]
    sessions: NDArray[np.int64]
    numbers: NDArray[np.int64]
    leads: NDArray[np.int64]
    parts: NDArray[np.int64]
    """Equal for the stretches of one session, rising."""


class Stretches:
    """Cuts events that come in batches, sorted by key and order, into sequences.

    It holds no more than a batch and two stretches of ``max_length`` events, however long a session is.

    Where one of a session's n stretches is to stand for it, the last one is filled up with events before it, so that
    all have ``max_length``, and each is drawn with chance 1/n; so is each event, or with 2/n where the last two
    overlap. No way to draw one such stretch gives every event more than 1/n: it holds at most one of n events that lie
    ``max_length`` apart.
    """

    def __init__(self, config: StoriesConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        gap = config.session_gap
        self._gap = None if gap is None else np.uint64(round(Decimal(str(gap)) * 10**6))
        self._last: NDArray[np.uint64] | None = None  # the last event's order
        self._held: _Stretch | None = None  # the last stretch, which may go on
        self._best: _Stretch | None = None  # of those of its session before it the one to be kept

    def add(self, events: Events) -> Iterator[pa.RecordBatch]:
        """Yield the sequences of the sessions that end before the last of ``events``."""
        begins, late = self._edges(events)
        if self._config.drop_repeats:
            kept = np.flatnonzero(begins | late | ~self._repeats(events.items))
            events, begins, late = events.take(kept), begins[kept], late[kept]
        before = [stretch.items for stretch in (self._best, self._held) if stretch is not None]
        items = pa.concat_arrays([*before, events.items])
        cut = self._cut(events.groups, begins, late)
        last = len(cut.starts) - 1
        chosen = np.arange(last)
        self._best, held = None, _stretch(cut, items, last)
        if self._config.too_long == "sample":
            chosen = self._sample(cut)
            if len(chosen) and cut.parts[chosen[-1]] == cut.parts[last]:
                self._best, chosen = _stretch(cut, items, int(chosen[-1])), chosen[:-1]
        self._held = held
        yield from self._told(cut, chosen, items)

    def end(self) -> Iterator[pa.RecordBatch]:
        """Yield what is still held."""
        found = [stretch for stretch in (self._best, self._held) if stretch is not None]
        if not found:
            return
        items = [stretch.items for stretch in found]
        lengths = np.array([len(part) for part in items])
        groups, sessions, numbers, leads = np.array([stretch[:4] for stretch in found], np.int64).T
        one = np.zeros(len(found), np.int64)
        cut = _Cut(np.cumsum(lengths) - lengths, lengths, groups, sessions, numbers, leads, one)
        yield from self._told(cut, self._least(cut), pa.concat_arrays(items))

    def _edges(self, events: Events) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Tell which events are the first of their key, and which of the others the first after a pause; bool [n]."""
        groups, held = events.groups, self._held
        begins = np.empty(len(groups), bool)
        begins[0] = held is None or held.group != groups[0]
        np.not_equal(groups[1:], groups[:-1], out=begins[1:])
        late = np.zeros(len(groups), bool)
        if self._gap is not None and events.order is not None:
            first = events.order[:1] if self._last is None else self._last
            low, high = np.concatenate([first, events.order]).T
            # The halves of the difference of two 128-bit numbers, of which the later one is not below the other.
            above = high[1:] - high[:-1] != (low[1:] < low[:-1])
            late = ~begins & (above | (low[1:] - low[:-1] > self._gap))
            self._last = events.order[-1:].copy()
        return begins, late

    def _repeats(self, items: pa.StringArray) -> NDArray[np.bool_]:
        """Tell which items are those before them; bool [n]."""
        before = items[:1] if self._held is None else self._held.items[-1:]
        same = pc.equal(items, pa.concat_arrays([before, items[:-1]]))
        found: NDArray[np.bool_] = same.to_numpy(zero_copy_only=False)
        return found

    def _cut(self, groups: NDArray[np.int64], begins: NDArray[np.bool_], late: NDArray[np.bool_]) -> _Cut:
        """Return the best stretch so far, the held one as it goes on, and those that follow; the last may go on."""
        best, held, longest = self._best, self._held, self._config.max_length
        shift = 0 if best is None else len(best.items)
        before = 0 if held is None else len(held.items)
        # A part is what there is of one session; the first one goes on from the held events where there are any.
        fresh = np.flatnonzero(begins | late)
        starts, owners, paused = before + fresh, groups[fresh], late[fresh]
        session = number = 0
        if held is not None:
            starts, owners, paused = np.r_[held.lead, starts], np.r_[np.int64(held.group), owners], np.r_[False, paused]
            session, number = held.session, held.number
        pauses = np.cumsum(paused)
        opening = np.maximum.accumulate(np.where(paused, 0, np.arange(len(starts))))
        sessions = pauses - pauses[opening] + np.where(opening == 0, session, 0)
        lengths = np.diff(starts, append=before + len(groups))
        pieces = -(-lengths // longest)
        parts = np.repeat(np.arange(len(starts)), pieces)
        numbers = np.arange(len(parts)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        sizes = np.minimum(longest, lengths[parts] - numbers * longest)
        starts = starts[parts] + numbers * longest + shift
        numbers += np.where(parts == 0, number, 0)
        # A session's last stretch alone may be shorter than the others.
        leads = np.where((numbers > 0) & (self._config.too_long == "sample"), longest - sizes, 0)
        cut = _Cut(starts - leads, sizes + leads, owners[parts], sessions[parts], numbers, leads, parts)
        if best is None:
            return cut
        first = (0, shift, best.group, best.session, best.number, best.lead, 0)
        return _Cut(*(np.r_[np.int64(value), column] for value, column in zip(first, cut, strict=True)))

    def _sample(self, cut: _Cut) -> NDArray[np.int64]:
        """Return the stretch that stands for each session, the last one of ``cut`` left out."""
        return self._least(_Cut(*(column[:-1] for column in cut)))

    def _least(self, cut: _Cut) -> NDArray[np.int64]:
        """Return each session's stretch of the least hash, places in ``cut``."""
        seeds = np.full(len(cut.starts), self._seed, np.int64)
        drawn = mix_arrays(seeds, cut.groups, cut.sessions, cut.numbers).view(np.uint64)
        order = np.lexsort((drawn, cut.parts))
        return order[np.flatnonzero(np.diff(cut.parts[order], prepend=-1))]

    def _told(self, cut: _Cut, chosen: NDArray[np.int64], items: pa.StringArray) -> Iterator[pa.RecordBatch]:
        """Yield stretches as a batch of SEQUENCES, those that are too short left out."""
        chosen = chosen[cut.lengths[chosen] >= self._config.min_length]
        if not len(chosen):
            return
        lengths = cut.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(cut.starts[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
        tokens = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items.take(pa.array(places)))
        ids = mix_arrays(cut.groups[chosen], cut.sessions[chosen], cut.numbers[chosen])
        yield pa.RecordBatch.from_arrays([pa.array(ids), tokens], schema=_ARROW)


def _stretch(cut: _Cut, items: pa.StringArray, at: int) -> _Stretch:
    group, session, number, lead = (int(column[at]) for column in (cut.groups, cut.sessions, cut.numbers, cut.leads))
    return _Stretch(group, session, number, lead, items[cut.starts[at] : cut.starts[at] + cut.lengths[at]])
