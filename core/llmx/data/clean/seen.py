"""Which keys were seen, and on which record: 12 bytes a key, in a table that is 55 to 80 % full.

A record costs 8 bytes for its place and, with its one exact key, 15 to 22 bytes more; with the sixteen keys of near
duplicates 255 to 370 bytes.
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

FULLEST = 0.8
GROWTH = 1.45
SMALLEST = 4_096


class KeyTable:
    """A map of keys to numbers of records; the first record of a key stays. Open addressing, linear probing."""

    def __init__(self) -> None:
        self._resize(SMALLEST)
        self.count = 0

    def _resize(self, size: int) -> None:
        self.size = size
        self._keys = np.zeros(size, np.uint64)  # 0: free
        self._records = np.zeros(size, np.uint32)
        self._key_at, self._record_at = self._keys.data, self._records.data  # one element: ten times as fast as numpy's

    def get(self, key: int) -> int | None:
        """Return the record of a key."""
        slot = key % self.size
        while found := self._key_at[slot]:
            if found == key:
                return self._record_at[slot]
            slot = slot + 1 if slot + 1 < self.size else 0
        return None

    def put(self, key: int, record: int) -> None:
        """Remember a key, unless it is there."""
        assert key
        slot = key % self.size
        while found := self._key_at[slot]:
            if found == key:
                return
            slot = slot + 1 if slot + 1 < self.size else 0
        self._key_at[slot], self._record_at[slot] = key, record
        self.count += 1
        if self.count > FULLEST * self.size:
            used = self._keys != 0
            keys, records = self._keys[used], self._records[used]
            self._resize(int(self.size * GROWTH))
            self._place(keys, records)

    def fill(self, keys: Keys, records: NDArray[np.uint32]) -> None:
        """Remember many keys at once, in an empty table, the first record of each."""
        keys, first = np.unique(keys, return_index=True)
        records = records[first]
        self.count = len(keys)
        self._resize(max(SMALLEST, int(self.count / FULLEST * GROWTH)))
        self._place(keys, records)

    def _place(self, keys: Keys, records: NDArray[np.uint32]) -> None:
        """Put distinct keys into free slots, all that find one at a time."""
        slots = (keys % np.uint64(self.size)).astype(np.int64)
        while len(keys):
            free = np.flatnonzero(self._keys[slots] == 0)
            taken, winners = np.unique(slots[free], return_index=True)
            placed = free[winners]
            self._keys[taken], self._records[taken] = keys[placed], records[placed]
            rest = np.ones(len(keys), bool)
            rest[placed] = False
            keys, records, slots = keys[rest], records[rest], (slots[rest] + 1) % self.size


class Seen:
    """What is known of the records that were kept.

    Attributes:
        ends: byte at which each record ends in the file of kept ones.
    """

    def __init__(self) -> None:
        self.ends = array("Q")
        self._table = KeyTable()

    def __len__(self) -> int:
        return len(self.ends)

    def find(self, key: int) -> int | None:
        """Return the first record that has a key."""
        return self._table.get(key)

    def span(self, record: int) -> tuple[int, int]:
        """Return the bytes from which to which a record stands."""
        return (self.ends[record - 1] if record else 0), self.ends[record]

    def add(self, end: int, keys: Keys) -> None:
        """Remember the next record, with its keys that are not 0."""
        for key in keys.tolist():
            if key:
                self._table.put(key, len(self.ends))
        self.ends.append(end)

    def restore(self, rows: Keys) -> None:
        """Remember what was written down: a row of [end, key, key, …] for each record."""
        self.ends = array("Q", rows[:, 0].tobytes())
        keys = rows[:, 1:].ravel()
        records = np.repeat(np.arange(len(rows), dtype=np.uint32), rows.shape[1] - 1)
        self._table.fill(keys[keys != 0], records[keys != 0])
