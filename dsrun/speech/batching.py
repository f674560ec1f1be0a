"""Batches: a pure function of (seed, epoch, index).

Utterances of similar length go together, because every frame of padding costs as much as a frame of speech; and there are few
padded shapes, because each one is compiled. So the utterances, sorted by length, are cut into at most `buckets` runs of whole
batches, where the cuts leave the least padding. A bucket has one shape: its longest clip at the slowest speed, rounded up to
`frame_multiple`, and its longest label. A batch comes from one bucket.

In every epoch each utterance appears exactly once. One batch, in the bucket of the shortest clips where it costs least, is filled up
with empty rows (no frames, no labels, id ""). The order is a keyed permutation: of the utterances within a bucket, then of the
batches. There is no iterator state: step n of a run is (n // batches an epoch, n % batches an epoch). All ties are broken by id.

SortaGrad (Amodei et al. 2015): the first epoch in order of increasing length.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Int32

from dsrun.speech.augment import utterance_rng
from dsrun.speech.dataset import Dataset
from dsrun.speech.workers import Workers


@dataclass(frozen=True)
class Batch:
    """A global batch; rows behind the last utterance are filler with id "" and lengths 0."""

    features: Float32[np.ndarray, "batch frame bin"]
    num_frames: Int32[np.ndarray, " batch"]
    labels: Int32[np.ndarray, "batch label"]
    num_labels: Int32[np.ndarray, " batch"]
    ids: tuple[str, ...]
    epoch: int
    index: int


@dataclass(frozen=True)
class Bucket:
    """Utterances (as places in the dataset, by length then id) and the padded shape of their batches."""

    members: tuple[int, ...]
    frames: int
    labels: int


class Batcher:
    """Batches of a dataset.

    Args:
        dataset: utterances with features and labels.
        global_batch: rows of a batch.
        buckets: padded shapes at most.
        frame_multiple: padded frames are a multiple of this.
        seed: of the order.
        sort_first_epoch: epoch 0 in order of length instead of shuffled.
        shuffle: False keeps the order of length in every epoch, for evaluation.
        rows: of a batch that are filled in; None for all. A process of several leaves out the rows of others' shards.
        workers: that make a batch's rows side by side; None makes them one after another.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        global_batch: int,
        buckets: int,
        frame_multiple: int,
        seed: int,
        sort_first_epoch: bool,
        shuffle: bool = True,
        rows: range | None = None,
        workers: Workers | None = None,
    ):
        self.dataset, self.global_batch, self.seed = dataset, global_batch, seed
        self.workers = workers or Workers()
        self.sort_first_epoch, self.shuffle = sort_first_epoch, shuffle
        self.rows = range(global_batch) if rows is None else rows
        self.buckets = _cut_into_buckets(dataset, buckets, frame_multiple, global_batch)
        self.batches_per_epoch = sum(-(-len(bucket.members) // global_batch) for bucket in self.buckets)
        self._latest: tuple[int, list[tuple[Bucket, tuple[int, ...]]]] | None = None

    def position(self, step: int) -> tuple[int, int]:
        """(epoch, index) of the batch that update number `step` (from 0) is made of."""
        return divmod(step, self.batches_per_epoch)

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of `epoch`; calling it again, or in another process, gives the same bytes."""
        if self._latest is None or self._latest[0] != epoch:
            self._latest = epoch, self._plan(epoch)
        bucket, members = self._latest[1][index]
        shape = (self.global_batch, bucket.frames, self.dataset.num_bins)
        features = np.zeros(shape, np.float32)
        labels = np.zeros((self.global_batch, bucket.labels), np.int32)
        num_frames = np.zeros(self.global_batch, np.int32)
        num_labels = np.zeros(self.global_batch, np.int32)

        def fill(row: int) -> None:
            member = members[row]
            clip, label = self.dataset.features(member, epoch), self.dataset.labels[member]
            features[row, : len(clip)], num_frames[row] = clip, len(clip)
            labels[row, : len(label)], num_labels[row] = label, len(label)

        for _ in self.workers.map(fill, (row for row in range(len(members)) if row in self.rows)):
            pass
        ids = tuple(self.dataset.ids[member] for member in members) + ("",) * (self.global_batch - len(members))
        return Batch(features, num_frames, labels, num_labels, ids, epoch, index)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All batches of an epoch, in order."""
        return (self.batch(epoch, index) for index in range(self.batches_per_epoch))

    def shapes(self) -> list[tuple[int, int]]:
        """Padded (frames, labels) of the buckets; as many compilations."""
        return [(bucket.frames, bucket.labels) for bucket in self.buckets]

    def padding_waste(self) -> float:
        """Share of padded frames in an epoch at the clips' own speed, empty rows included."""
        real = sum(self.dataset.num_frames(member, 1.0) for bucket in self.buckets for member in bucket.members)
        rows = [(-(-len(b.members) // self.global_batch) * self.global_batch, b.frames) for b in self.buckets]
        return 1.0 - real / sum(count * frames for count, frames in rows)

    def _plan(self, epoch: int) -> list[tuple[Bucket, tuple[int, ...]]]:
        if epoch == 0 and self.sort_first_epoch:
            order = sorted(self._cut(False, epoch), key=lambda entry: max(self._length(m) for m in entry[1]))
            return order
        batches = self._cut(self.shuffle, epoch)
        if not self.shuffle:
            return batches
        rng = utterance_rng(self.seed, epoch, "", "order of batches")
        return [batches[i] for i in rng.permutation(len(batches))]

    def _cut(self, shuffle: bool, epoch: int) -> list[tuple[Bucket, tuple[int, ...]]]:
        batches = []
        for number, bucket in enumerate(self.buckets):
            members = bucket.members
            if shuffle:
                rng = utterance_rng(self.seed, epoch, str(number), "order within a bucket")
                members = tuple(members[i] for i in rng.permutation(len(members)))
            starts = range(0, len(members), self.global_batch)
            batches += [(bucket, members[start : start + self.global_batch]) for start in starts]
        return batches

    def _length(self, member: int) -> tuple[int, str]:
        return self.dataset.num_frames(member, 1.0), self.dataset.ids[member]


def _cut_into_buckets(dataset: Dataset, buckets: int, frame_multiple: int, global_batch: int) -> list[Bucket]:
    """Neighbours in length, at most `buckets` groups of whole batches, with the least padding that so many shapes allow."""
    order = sorted(range(len(dataset.ids)), key=lambda m: (dataset.most_frames(m), dataset.ids[m]))
    ends = list(range(len(order), 0, -global_batch))[::-1]  # whole batches from the longest down; the rest comes first
    padded = [_round_up(dataset.most_frames(order[end - 1]), frame_multiple) for end in ends]
    edges = [0, *(ends[cut - 1] for cut in _cheapest_cuts(padded, buckets)[1:])]
    return [_bucket(dataset, order[a:b], frame_multiple) for a, b in pairwise(edges)]


def _cheapest_cuts(lengths: Sequence[int], pieces: int) -> list[int]:
    """Edges 0..len that cut non-decreasing lengths into at most `pieces` runs, each costing its size times its last length."""
    # Between equals a cut saves nothing, so few places are left to try, however many the batches are.
    places = [i for i in range(1, len(lengths)) if lengths[i] > lengths[i - 1]] + [len(lengths)]
    # batches placed: (padded length so far, edges)
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, (0,))}
    for _ in range(min(pieces, len(places))):
        extended = dict(best)
        for start, (cost, edges) in best.items():
            for end in places[bisect_right(places, start) :]:
                candidate = (cost + (end - start) * lengths[end - 1], (*edges, end))
                if end not in extended or candidate < extended[end]:
                    extended[end] = candidate
        best = extended
    return list(best[len(lengths)][1])


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _bucket(dataset: Dataset, members: Sequence[int], frame_multiple: int) -> Bucket:
    longest = max(dataset.most_frames(member) for member in members)
    labels = max(len(dataset.labels[member]) for member in members)
    return Bucket(tuple(members), _round_up(longest, frame_multiple), max(labels, 1))
