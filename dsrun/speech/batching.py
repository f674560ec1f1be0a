"""Batches: a pure function of (seed, epoch, index).

Utterances of similar length go together, because every frame of padding costs as much as a frame of speech; and there are few
padded shapes, because each one is compiled. So the utterances, sorted by length, are cut into at most `buckets` runs of whole
batches, where the cuts leave the least padding. A bucket has one shape: its longest clip at the slowest speed, rounded up to
`frame_multiple`, and its longest label. A batch comes from one bucket.

In every epoch each utterance appears exactly once. One batch, in the bucket of the shortest clips where it costs least, is filled up
with empty rows (no frames, no labels, id ""). The order is a keyed permutation: of the utterances within a bucket, then of the
batches. There is no iterator state: step n of a run is (n // batches an epoch, n % batches an epoch). All ties are broken by id.
Nothing here is a list of an epoch: of a million utterances four bytes each are held, their places in order of length; who is in
batch k is computed when it is asked for (`permutation.py`).

SortaGrad (Amodei et al. 2015): the first epoch in order of increasing length.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Int, Int32

from dsrun.errors import DataError
from dsrun.speech.augment import utterance_rng
from dsrun.speech.cuts import cheapest_cuts, round_up
from dsrun.speech.dataset import Dataset, Unreadable
from dsrun.speech.permutation import Listed, Order, Plain, shuffled
from dsrun.speech.streaming import StreamedDataset
from dsrun.speech.workers import Workers

AnyDataset = Dataset | StreamedDataset


@dataclass(frozen=True)
class Batch:
    """A global batch; rows behind the last utterance are filler with id "" and lengths 0.

    `problems` tells, by row, of utterances whose recording could not be used: their rows are filler too. A process of several knows
    its own rows' alone, until it has heard of the others' (`lacking`). `row_seconds` is of all utterances, those included.
    """

    features: Float32[np.ndarray, "batch frame bin"]
    num_frames: Int32[np.ndarray, " batch"]
    labels: Int32[np.ndarray, "batch label"]
    num_labels: Int32[np.ndarray, " batch"]
    ids: tuple[str, ...]
    epoch: int
    index: int
    row_seconds: tuple[float, ...] = ()
    problems: Mapping[int, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of the recordings that are used."""
        return float(sum(seconds for row, seconds in enumerate(self.row_seconds) if row not in self.problems))

    def lacking(self, problems: Mapping[int, str]) -> "Batch":
        """This batch, once it is known what is wrong in all rows. Raises DataError if no recording of it can be used."""
        ordered = {row: problems[row] for row in sorted(problems)}
        if len(ordered) == len(self.row_seconds):
            raise DataError("\n".join(["no recording of a whole batch can be used:", *ordered.values()]))
        ids = tuple("" if row in ordered else id for row, id in enumerate(self.ids))
        return replace(self, ids=ids, problems=ordered)


@dataclass(frozen=True)
class Bucket:
    """Utterances (as places in the dataset, by length then id) and the padded shape of their batches."""

    members: Int32[np.ndarray, " member"]
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
        unreadable: "drop" makes a filler row of an utterance whose recording cannot be used.
    """

    def __init__(
        self,
        dataset: AnyDataset,
        *,
        global_batch: int,
        buckets: int,
        frame_multiple: int,
        seed: int,
        sort_first_epoch: bool,
        shuffle: bool = True,
        rows: range | None = None,
        workers: Workers | None = None,
        unreadable: Unreadable = "error",
    ):
        self.dataset, self.global_batch, self.seed = dataset, global_batch, seed
        self.workers = workers or Workers()
        self.sort_first_epoch, self.shuffle = sort_first_epoch, shuffle
        self.rows = range(global_batch) if rows is None else rows
        self.buckets = _cut_into_buckets(dataset, buckets, frame_multiple, global_batch)
        sizes = [-(-len(bucket.members) // global_batch) for bucket in self.buckets]
        self._first = np.cumsum([0, *sizes]).tolist()  # batch of each bucket, all buckets one after another
        self.batches_per_epoch = self._first[-1]
        self.unreadable = unreadable
        self._latest: _Plan | None = None

    def position(self, step: int) -> tuple[int, int]:
        """(epoch, index) of the batch that update number `step` (from 0) is made of."""
        return divmod(step, self.batches_per_epoch)

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of `epoch`; calling it again, or in another process, gives the same bytes."""
        bucket, members = self._find(epoch, index)
        shape = (self.global_batch, bucket.frames, self.dataset.num_bins)
        features = np.zeros(shape, np.float32)
        labels = np.zeros((self.global_batch, bucket.labels), np.int32)
        num_frames = np.zeros(self.global_batch, np.int32)
        num_labels = np.zeros(self.global_batch, np.int32)

        def fill(row: int) -> str | None:
            member = members[row]
            try:
                clip, label = self.dataset.features(member, epoch), self.dataset.labels[member]
            except DataError as error:
                if self.unreadable == "error":
                    raise
                return str(error)
            features[row, : len(clip)], num_frames[row] = clip, len(clip)
            labels[row, : len(label)], num_labels[row] = label, len(label)
            return None

        rows = [row for row in range(len(members)) if row in self.rows]
        problems = dict(zip(rows, self.workers.map(fill, rows), strict=True))
        bad = {row: problem for row, problem in problems.items() if problem is not None}
        ids = [*(self.dataset.ids[member] for member in members), *[""] * (self.global_batch - len(members))]
        seconds = tuple(float(self.dataset.seconds[member]) for member in members)
        batch = Batch(features, num_frames, labels, num_labels, tuple(ids), epoch, index, seconds, bad)
        # Of several processes none can say alone that nothing of a batch is left.
        return batch.lacking(bad) if bad and len(self.rows) == self.global_batch else batch

    def members(self, epoch: int, index: int) -> list[int]:
        """Who is in a batch, as places in the dataset, without reading anything."""
        return self._find(epoch, index)[1]

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All batches of an epoch, in order."""
        return (self.batch(epoch, index) for index in range(self.batches_per_epoch))

    def shapes(self) -> list[tuple[int, int]]:
        """Padded (frames, labels) of the buckets; as many compilations."""
        return [(bucket.frames, bucket.labels) for bucket in self.buckets]

    @property
    def most_labels(self) -> int:
        """Labels of the utterance that has most."""
        return max(bucket.labels for bucket in self.buckets)

    def padding_waste(self) -> float:
        """Share of padded frames in an epoch at the clips' own speed, empty rows included."""
        real = int(self.dataset.lengths.plain.sum(dtype=np.int64))
        rows = [(-(-len(b.members) // self.global_batch) * self.global_batch, b.frames) for b in self.buckets]
        return 1.0 - real / sum(count * frames for count, frames in rows)

    def _find(self, epoch: int, index: int) -> tuple[Bucket, list[int]]:
        plan = self._latest
        if plan is None or plan.epoch != epoch:
            plan = self._latest = self._plan(epoch)
        number = int(plan.batches(np.array([index]))[0])
        place = bisect_right(self._first, number) - 1
        bucket, start = self.buckets[place], (number - self._first[place]) * self.global_batch
        places = np.arange(start, min(start + self.global_batch, len(bucket.members)))
        return bucket, bucket.members[plan.within[place](places)].tolist()

    def _plan(self, epoch: int) -> "_Plan":
        in_place: list[Order] = [Plain() for _ in self.buckets]
        if epoch == 0 and self.sort_first_epoch:
            return _Plan(epoch, Listed(self._by_length), in_place)
        if not self.shuffle:
            return _Plan(epoch, Plain(), in_place)
        within = [
            shuffled(len(bucket.members), utterance_rng(self.seed, epoch, str(number), "order within a bucket"))
            for number, bucket in enumerate(self.buckets)
        ]
        rng = utterance_rng(self.seed, epoch, "", "order of batches")
        return _Plan(epoch, shuffled(self.batches_per_epoch, rng), within)

    @cached_property
    def _by_length(self) -> Int[np.ndarray, " batch"]:
        """Batches of unshuffled buckets in order of their longest utterance at its own speed, ties broken by id."""
        lengths, keys = self.dataset.lengths.plain, []
        for bucket in self.buckets:
            for start in range(0, len(bucket.members), self.global_batch):
                members = bucket.members[start : start + self.global_batch]
                frames = lengths[members]
                longest = members[frames == frames.max()].tolist()
                keys.append((int(frames.max()), max(self.dataset.ids[member] for member in longest)))
        return np.array(sorted(range(len(keys)), key=keys.__getitem__))


@dataclass(frozen=True)
class _Plan:
    """An epoch: which batch comes when, and the order within each bucket."""

    epoch: int
    batches: Order
    within: list[Order]


def _cut_into_buckets(dataset: AnyDataset, buckets: int, frame_multiple: int, global_batch: int) -> list[Bucket]:
    """Neighbours in length, at most `buckets` groups of whole batches, with the least padding that so many shapes allow."""
    lengths = dataset.lengths
    order = _order(lengths.most, dataset.ids)
    ends = np.arange(len(order), 0, -global_batch)[::-1]  # whole batches from the longest down; the rest comes first
    padded = round_up(lengths.most[order[ends - 1]].astype(np.int64), frame_multiple)
    edges = [0, *(int(ends[cut - 1]) for cut in cheapest_cuts(padded.tolist(), buckets)[1:])]
    return [
        Bucket(
            members=order[a:b],
            frames=int(round_up(lengths.most[order[b - 1]], frame_multiple)),
            labels=max(1, int(lengths.labels[order[a:b]].max())),
        )
        for a, b in pairwise(edges)
    ]


def _order(frames: Int[np.ndarray, " member"], ids: Sequence[str]) -> Int32[np.ndarray, " member"]:
    """Members by number of frames, then id. Ids are looked at where frames are equal: never all of a million at once."""
    order = np.argsort(frames, kind="stable").astype(np.int32)
    edges = [0, *(np.flatnonzero(np.diff(frames[order])) + 1).tolist(), len(order)]
    for start, end in pairwise(edges):
        if end - start > 1:
            order[start:end] = sorted(order[start:end].tolist(), key=ids.__getitem__)
    return order
