"""A key's events, as they stream by, to sequences: pauses, repeats and maximum lengths. Knows no Spark."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedall_spark import list_offsets
from embedall_spark.randomness import mix_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from embedall_spark.corpus.stories_config import StoriesConfig

# Rows whose copies are made at once: 100 times as many items must fit into one array.
_REPEATED_ROWS = 1024
_ARROW = pa.schema([pa.field("id", pa.int64()), pa.field("tokens", pa.list_(pa.string()))])


class Events(NamedTuple):
    """Events in their order."""

    groups: NDArray[np.int64]
    """Hash of each event's key; adjacent events of equal hash have one key."""
    items: pa.StringArray
    order: NDArray[np.uint64] | None
    """Millionths, uint64 [n, 2]: the low and the high half of 128 bits; None where pauses do not count."""

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Iterator[Events]:
        """Yield the events of a batch, each as often as its copies say."""
        counts = batch.column("copies").to_numpy()
        step = batch.num_rows if (counts == 1).all() else _REPEATED_ROWS
        for start in range(0, batch.num_rows, max(1, step)):
            part = batch.slice(start, step)
            order = None
            if "order" in part.schema.names:
                column = part.column("order")
                halves = np.frombuffer(column.buffers()[1], np.uint64).reshape(-1, 2)
                order = halves[column.offset : column.offset + len(column)]
            events = cls(part.column("group").to_numpy(), part.column("item"), order)
            copies = counts[start : start + step]
            yield events if (copies == 1).all() else events.take(np.repeat(np.arange(len(copies)), copies))

    def take(self, rows: NDArray[np.int64]) -> Events:
        """Return the events in some rows."""
        order = None if self.order is None else self.order[rows]
        return Events(self.groups[rows], self.items.take(pa.array(rows)), order)


class _Window(NamedTuple):
    """A window of a session, as it is kept between batches."""

    group: int
    session: int
    number: int
    overlap: int
    """The first so many items belong to the window before, and fill this one up to ``max_length``."""
    items: pa.StringArray


class _Windows(NamedTuple):
    """Windows over an array of items; one row per window, int64 [n]."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    groups: NDArray[np.int64]
    sessions: NDArray[np.int64]
    numbers: NDArray[np.int64]
    overlaps: NDArray[np.int64]
    parts: NDArray[np.int64]
    """Equal for the windows of one session, ascending."""


class SessionWindows:
    """Cuts events that come in batches, sorted by key and order, into sequences.

    It keeps no more than a batch and two windows, however long a session is.

    too_long=sample: one uniformly chosen window represents the session; the last is aligned to its end, so that all
    have ``max_length`` events. Each of n windows is chosen with chance 1/n, and so is each event, or with 2/n where the
    last two windows overlap. No such choice gives every event more than 1/n: a window holds at most one of n events
    that lie ``max_length`` apart.

    too_long=split: every window is a sequence; fewer than ``min_length`` events at the end join the window before.
    """

    def __init__(self, config: StoriesConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        gap = config.session_gap
        self._gap = None if gap is None else np.uint64(round(Decimal(str(gap)) * 10**6))
        self._last_order: NDArray[np.uint64] | None = None
        self._open: _Window | None = None  # the last window, whose session may continue
        self._chosen: _Window | None = None  # the choice among the windows of its session before it

    def add(self, events: Events) -> Iterator[pa.RecordBatch]:
        """Yield the sequences that are complete before the last of ``events``."""
        first, after_pause = self._session_starts(events)
        if self._config.drop_repeats:
            rows = np.flatnonzero(first | after_pause | ~self._repeats(events.items))
            events, first, after_pause = events.take(rows), first[rows], after_pause[rows]
        before = [window.items for window in (self._chosen, self._open) if window is not None]
        items = pa.concat_arrays([*before, events.items])
        windows = self._cut(events.groups, first, after_pause)
        last = len(windows.starts) - 1
        complete = np.arange(last)
        self._chosen, still_open = None, _window(windows, items, last)
        if self._config.too_long == "sample":
            complete = self._choose(_Windows(*(column[:-1] for column in windows)))
            if len(complete) and windows.parts[complete[-1]] == windows.parts[last]:
                self._chosen, complete = _window(windows, items, int(complete[-1])), complete[:-1]
        self._open = still_open
        yield from self._sequences(windows, complete, items)

    def finish(self) -> Iterator[pa.RecordBatch]:
        """Yield the sequence of the last session."""
        rest = [window for window in (self._chosen, self._open) if window is not None]
        if not rest:
            return
        items = [window.items for window in rest]
        lengths = np.array([len(part) for part in items])
        groups, sessions, numbers, overlaps = np.array([window[:4] for window in rest], np.int64).T
        same = np.zeros(len(rest), np.int64)
        windows = _Windows(np.cumsum(lengths) - lengths, lengths, groups, sessions, numbers, overlaps, same)
        yield from self._sequences(windows, self._choose(windows), pa.concat_arrays(items))

    def _session_starts(self, events: Events) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which events are the first of their key, and which of the others come after a pause; bool [n]."""
        groups = events.groups
        first = np.empty(len(groups), bool)
        first[0] = self._open is None or self._open.group != groups[0]
        np.not_equal(groups[1:], groups[:-1], out=first[1:])
        after_pause = np.zeros(len(groups), bool)
        if self._gap is not None and events.order is not None:
            previous = events.order[:1] if self._last_order is None else self._last_order
            low, high = np.concatenate([previous, events.order]).T
            # The halves of the difference of two 128-bit numbers, of which the later one is not below the other.
            above = high[1:] - high[:-1] != (low[1:] < low[:-1])
            after_pause = ~first & (above | (low[1:] - low[:-1] > self._gap))
            self._last_order = events.order[-1:].copy()
        return first, after_pause

    def _repeats(self, items: pa.StringArray) -> NDArray[np.bool_]:
        """Return which items equal the one before them; bool [n]."""
        before = items[:1] if self._open is None else self._open.items[-1:]
        repeats: NDArray[np.bool_] = pc.equal(items, pa.concat_arrays([before, items[:-1]])).to_numpy(
            zero_copy_only=False
        )
        return repeats

    def _cut(self, groups: NDArray[np.int64], first: NDArray[np.bool_], after_pause: NDArray[np.bool_]) -> _Windows:
        """Return the chosen window, the open one as it continues, and those that follow; the last is the open one."""
        chosen, open_, size = self._chosen, self._open, self._config.max_length
        shift = 0 if chosen is None else len(chosen.items)
        before = 0 if open_ is None else len(open_.items)
        # A part is what there is of one session; the first one continues the open window where there is one.
        new = np.flatnonzero(first | after_pause)
        starts, owners, paused = before + new, groups[new], after_pause[new]
        session = number = 0
        if open_ is not None:
            starts, owners = np.r_[open_.overlap, starts], np.r_[np.int64(open_.group), owners]
            paused = np.r_[False, paused]
            session, number = open_.session, open_.number
        pauses = np.cumsum(paused)
        key_start = np.maximum.accumulate(np.where(paused, 0, np.arange(len(starts))))
        sessions = pauses - pauses[key_start] + np.where(key_start == 0, session, 0)
        lengths = np.diff(starts, append=before + len(groups))
        # Split, a further window begins only where min_length events are left for it.
        slack = self._config.min_length - 1 if self._config.too_long == "split" else 0
        pieces = np.maximum(1, -(-(lengths - slack) // size))
        parts = np.repeat(np.arange(len(starts)), pieces)
        numbers = np.arange(len(parts)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        is_last = np.diff(parts, append=len(starts)) > 0
        sizes = np.where(is_last, lengths[parts] - numbers * size, size)
        starts = starts[parts] + numbers * size + shift
        numbers += np.where(parts == 0, number, 0)
        # Only a session's last window may be shorter than the others.
        overlaps = np.where((numbers > 0) & (self._config.too_long == "sample"), size - sizes, 0)
        windows = _Windows(
            starts - overlaps, sizes + overlaps, owners[parts], sessions[parts], numbers, overlaps, parts
        )
        if chosen is None:
            return windows
        row = (0, shift, chosen.group, chosen.session, chosen.number, chosen.overlap, 0)
        return _Windows(*(np.r_[np.int64(value), column] for value, column in zip(row, windows, strict=True)))

    def _choose(self, windows: _Windows) -> NDArray[np.int64]:
        """Return the row of each session's window with the least hash."""
        seeds = np.full(len(windows.starts), self._seed, np.int64)
        hashes = mix_arrays(seeds, windows.groups, windows.sessions, windows.numbers).view(np.uint64)
        order = np.lexsort((hashes, windows.parts))
        return order[list_offsets.from_runs(windows.parts[order])[:-1]]

    def _sequences(self, windows: _Windows, rows: NDArray[np.int64], items: pa.StringArray) -> Iterator[pa.RecordBatch]:
        """Yield windows as a batch of SEQUENCES, without those that are too short."""
        rows = rows[windows.lengths[rows] >= self._config.min_length]
        if not len(rows):
            return
        lengths = windows.lengths[rows]
        offsets = list_offsets.from_lengths(lengths)
        indices = np.repeat(windows.starts[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        tokens = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items.take(pa.array(indices)))
        ids = mix_arrays(windows.groups[rows], windows.sessions[rows], windows.numbers[rows])
        yield pa.RecordBatch.from_arrays([pa.array(ids), tokens], schema=_ARROW)


def _window(windows: _Windows, items: pa.StringArray, row: int) -> _Window:
    columns = (windows.groups, windows.sessions, windows.numbers, windows.overlaps)
    group, session, number, overlap = (int(column[row]) for column in columns)
    start = windows.starts[row]
    return _Window(group, session, number, overlap, items[start : start + windows.lengths[row]])
