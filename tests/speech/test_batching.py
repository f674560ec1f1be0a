"""Batches as a pure function of (seed, epoch, index), against enumeration where the number of cases is small."""

import hashlib
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrun.errors import DataError
from dsrun.speech import Augmentation, Batcher, Dataset, estimate_normalization

AUGMENTATION = Augmentation((0.9, 1.0, 1.1), 1, 4, 1, 2)
BINS = 5


def make_dataset(lengths, *, augmentation=None, seed=3):
    """Utterances of random features; at speed s a clip of n frames has n / s."""
    clips, labels = [], []
    for number, length in enumerate(lengths):
        rng = np.random.default_rng(number)
        speeds = augmentation.speeds if augmentation else (1.0,)
        clips.append({s: rng.normal(3, 2, (max(1, round(length / s)), BINS)).astype(np.float32) for s in speeds})
        labels.append(tuple(int(label) for label in rng.integers(1, 9, max(0, length // 4 - 1))))
    return Dataset(
        ids=tuple(f"u{number:03}" for number in range(len(clips))),
        labels=tuple(labels),
        seconds=tuple(length / 100 for length in lengths),
        clips=tuple(clips),
        normalization=estimate_normalization(clip[1.0] for clip in clips),
        augmentation=augmentation,
        seed=seed,
    )


def speech_lengths(number, seed=0):
    """Many short ones and a few long ones, as in a corpus."""
    return np.random.default_rng(seed).lognormal(3, 0.7, number).astype(int).clip(2).tolist()


def make_batcher(dataset, **options):
    given = {"global_batch": 4, "buckets": 3, "frame_multiple": 6, "seed": 1, "sort_first_epoch": True} | options
    return Batcher(dataset, **given)


def digest(batch):
    """sha256 of everything in a batch."""
    arrays = (batch.features, batch.num_frames, batch.labels, batch.num_labels)
    parts = [repr((batch.ids, batch.epoch, batch.index)), *(f"{a.dtype} {a.shape}" for a in arrays)]
    return hashlib.sha256(" ".join(parts).encode() + b"".join(a.tobytes() for a in arrays)).hexdigest()


def ids_of(batcher, epoch):
    return [batch.ids for batch in batcher.epoch(epoch)]


def test_a_batch_has_the_same_bytes_in_any_order_twice_and_from_a_new_object():
    def fresh():
        return make_batcher(make_dataset(speech_lengths(30), augmentation=AUGMENTATION))

    batcher = fresh()
    places = [(epoch, index) for epoch in range(3) for index in range(batcher.batches_per_epoch)]
    expected = {place: digest(batcher.batch(*place)) for place in places}
    assert len(set(expected.values())) == len(places)
    for place in reversed(places):
        assert digest(batcher.batch(*place)) == expected[place]
    jumping, shuffled = fresh(), np.random.default_rng(0).permutation(len(places))
    for number in [*shuffled, *shuffled[:5]]:
        assert digest(jumping.batch(*places[number])) == expected[places[number]]


def test_a_run_resumed_at_any_step_gets_the_batches_of_the_uninterrupted_one():
    dataset = make_dataset(speech_lengths(14), augmentation=AUGMENTATION)
    batcher = make_batcher(dataset)
    total = 3 * batcher.batches_per_epoch
    whole = [digest(batcher.batch(*batcher.position(step))) for step in range(total)]
    assert whole == [digest(batch) for epoch in range(3) for batch in batcher.epoch(epoch)]
    for first in range(total):
        resumed = make_batcher(dataset)
        assert [digest(resumed.batch(*resumed.position(step))) for step in range(first, total)] == whole[first:]


@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(1, 40),
    global_batch=st.integers(1, 9),
    buckets=st.integers(1, 5),
    sort_first_epoch=st.booleans(),
    shuffle=st.booleans(),
)
def test_every_epoch_has_every_utterance_exactly_once_in_the_fewest_batches(
    number, global_batch, buckets, sort_first_epoch, shuffle
):
    dataset = make_dataset(speech_lengths(number, seed=number))
    batcher = make_batcher(
        dataset, global_batch=global_batch, buckets=buckets, sort_first_epoch=sort_first_epoch, shuffle=shuffle
    )
    assert batcher.batches_per_epoch == -(-number // global_batch)
    for epoch in range(2):
        ids = [id for batch in ids_of(batcher, epoch) for id in batch]
        assert sorted(id for id in ids if id) == sorted(dataset.ids)
        assert len(ids) == batcher.batches_per_epoch * global_batch


def test_rows_hold_the_utterances_and_everything_else_is_zero():
    dataset = make_dataset(speech_lengths(13), augmentation=AUGMENTATION)
    batcher = make_batcher(dataset)
    for epoch in range(2):
        for batch in batcher.epoch(epoch):
            for row, id in enumerate(batch.ids):
                member = dataset.ids.index(id) if id else None
                features = np.zeros((0, BINS)) if member is None else dataset.features(member, epoch)
                labels = () if member is None else dataset.labels[member]
                assert (batch.num_frames[row], batch.num_labels[row]) == (len(features), len(labels))
                np.testing.assert_array_equal(batch.features[row, : len(features)], features)
                assert not batch.features[row, len(features) :].any()
                assert tuple(batch.labels[row, : len(labels)]) == tuple(labels)
                assert not batch.labels[row, len(labels) :].any()


def test_only_one_batch_has_empty_rows_and_it_has_the_smallest_shape():
    batcher = make_batcher(make_dataset(speech_lengths(13)))
    for epoch in range(3):
        unfilled = [batch for batch in batcher.epoch(epoch) if "" in batch.ids]
        assert [batch.ids.count("") for batch in unfilled] == [3]
        assert (unfilled[0].features.shape[1], unfilled[0].labels.shape[1]) == batcher.shapes()[0]
        assert unfilled[0].ids[-3:] == ("", "", "")


def test_shapes_are_those_announced_in_every_epoch_although_speeds_change_the_lengths():
    dataset = make_dataset(speech_lengths(40), augmentation=AUGMENTATION)
    batcher = make_batcher(dataset)
    assert len(batcher.shapes()) == 3
    assert all(frames % 6 == 0 for frames, _ in batcher.shapes())
    seen = [sorted(batch.features.shape[1:2] + batch.labels.shape[1:] for batch in batcher.epoch(e)) for e in range(5)]
    assert all(shapes == seen[0] for shapes in seen)
    assert sorted(set(seen[0])) == sorted(batcher.shapes())
    assert batcher.most_labels == max(labels for _, labels in seen[0])
    lengths = {tuple(sorted(n for batch in batcher.epoch(epoch) for n in batch.num_frames)) for epoch in range(5)}
    assert len(lengths) == 5


def test_a_bucket_is_no_larger_than_its_longest_clip_and_label_need():
    dataset = make_dataset(speech_lengths(40))
    for bucket in make_batcher(dataset).buckets:
        longest = max(dataset.num_frames(member, 1.0) for member in bucket.members.tolist())
        assert 0 <= bucket.frames - longest < 6
        assert bucket.labels == max(len(dataset.labels[member]) for member in bucket.members.tolist())


def least_frames(lengths, *, global_batch, buckets, frame_multiple):
    """Padded frames an epoch of the best cut of the sorted batches into at most `buckets` runs, by trying all."""
    ordered = sorted(lengths)
    first = len(ordered) % global_batch or global_batch
    ends = range(first, len(ordered) + 1, global_batch)
    padded = [-(-ordered[end - 1] // frame_multiple) * frame_multiple for end in ends]
    costs = []
    for cuts in range(min(buckets, len(padded))):
        for places in combinations(range(1, len(padded)), cuts):
            edges = [0, *places, len(padded)]
            costs.append(sum((b - a) * padded[b - 1] for a, b in pairwise(edges)))
    return min(costs) * global_batch


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=24),
    global_batch=st.integers(1, 4),
    buckets=st.integers(1, 4),
    frame_multiple=st.sampled_from([1, 6]),
)
def test_no_other_cut_into_so_many_shapes_pads_less(lengths, global_batch, buckets, frame_multiple):
    options = {"global_batch": global_batch, "buckets": buckets, "frame_multiple": frame_multiple}
    batcher = make_batcher(make_dataset(lengths), **options)
    padded = sum(batch.features.shape[0] * batch.features.shape[1] for batch in batcher.epoch(0))
    assert padded == least_frames(lengths, **options)
    assert len(batcher.shapes()) <= buckets
    assert len({frames for frames, _ in batcher.shapes()}) == len(batcher.shapes())  # no two compilations of one length


def test_padding_waste_is_the_share_of_frames_that_no_clip_fills():
    batcher = make_batcher(make_dataset(speech_lengths(30)))
    batches = list(batcher.epoch(1))
    real = sum(int(batch.num_frames.sum()) for batch in batches)
    padded = sum(batch.features.shape[0] * batch.features.shape[1] for batch in batches)
    assert 0 < batcher.padding_waste() == pytest.approx(1 - real / padded)
    full = make_batcher(make_dataset([12] * 8))
    assert full.padding_waste() == 0
    assert len(full.shapes()) == 1


def test_more_buckets_waste_less():
    waste = [
        make_batcher(make_dataset(speech_lengths(60)), buckets=buckets).padding_waste() for buckets in (1, 2, 4, 8)
    ]
    assert waste == sorted(waste, reverse=True)
    assert waste[0] - waste[-1] > 0.1


def longest_of(dataset, ids):
    return max(dataset.num_frames(dataset.ids.index(id), 1.0) for id in ids if id)


def test_the_first_epoch_goes_up_in_length_and_later_ones_do_not():
    dataset = make_dataset(speech_lengths(40), augmentation=AUGMENTATION)
    batcher = make_batcher(dataset)
    lengths = [[longest_of(dataset, ids) for ids in ids_of(batcher, epoch)] for epoch in range(3)]
    assert lengths[0] == sorted(lengths[0])
    assert lengths[1] != sorted(lengths[1])
    assert lengths[1] != lengths[2]


def test_without_sorting_the_first_epoch_is_shuffled_like_the_others():
    dataset = make_dataset(speech_lengths(40))
    lengths = [longest_of(dataset, ids) for ids in ids_of(make_batcher(dataset, sort_first_epoch=False), 0)]
    assert lengths != sorted(lengths)


def test_shuffling_changes_who_is_together_and_not_only_the_order_of_batches():
    batcher = make_batcher(make_dataset(speech_lengths(40)))
    assert {frozenset(ids) for ids in ids_of(batcher, 1)} != {frozenset(ids) for ids in ids_of(batcher, 2)}


def test_another_seed_is_another_order_and_sorted_epochs_do_not_depend_on_it():
    dataset = make_dataset(speech_lengths(40))
    one, two = make_batcher(dataset, seed=1), make_batcher(dataset, seed=2)
    assert ids_of(one, 1) != ids_of(two, 1)
    assert ids_of(one, 0) == ids_of(two, 0)


def test_the_order_of_the_manifests_lines_does_not_matter_even_among_equal_lengths():
    dataset = make_dataset([8, 8, 8, 8, 8, 8, 12, 12, 12, 12], augmentation=AUGMENTATION)
    order = np.random.default_rng(0).permutation(len(dataset.ids))
    fields = {name: tuple(getattr(dataset, name)[i] for i in order) for name in ("ids", "labels", "seconds", "clips")}
    ours, theirs = make_batcher(dataset), make_batcher(replace(dataset, **fields))
    for epoch in range(3):
        assert [digest(batch) for batch in ours.epoch(epoch)] == [digest(batch) for batch in theirs.epoch(epoch)]


def test_evaluation_batches_are_in_order_of_length_and_the_same_in_every_epoch():
    dataset = make_dataset(speech_lengths(30))
    batcher = make_batcher(dataset, shuffle=False, sort_first_epoch=False)
    expected = tuple(sorted(dataset.ids, key=lambda id: (dataset.num_frames(dataset.ids.index(id), 1.0), id)))
    assert tuple(id for ids in ids_of(batcher, 0) for id in ids if id) == expected
    first, later = list(batcher.epoch(0)), list(batcher.epoch(7))
    assert [digest(replace(batch, epoch=0)) for batch in later] == [digest(batch) for batch in first]


def test_an_utterance_without_labels_has_a_row_and_room_for_one_label():
    batch = make_batcher(make_dataset([4, 4, 4])).batch(0, 0)  # four frames: no labels
    assert batch.num_frames.tolist() == [4, 4, 4, 0]
    assert batch.num_labels.tolist() == [0, 0, 0, 0]
    assert batch.labels.shape == (4, 1)


class Broken(Dataset):
    """A dataset in which some utterances cannot be read: those in `broken`."""

    broken: frozenset[int] = frozenset()

    def features(self, member, epoch):
        if member in self.broken:
            raise DataError(f"utterance {self.ids[member]!r}: no such file.")
        return super().features(member, epoch)


@pytest.mark.parametrize("broken", [{1}, {2}, {0, 3}, {0, 1, 2, 3}])
def test_processes_that_hear_of_each_others_bad_rows_know_what_one_alone_does(monkeypatch, broken):
    monkeypatch.setattr(Broken, "broken", frozenset(broken))
    plain = make_dataset([30, 31, 32, 33])
    dataset = Broken(**{name: getattr(plain, name) for name in plain.__dataclass_fields__})

    def batch(rows):
        options = {"global_batch": 4, "buckets": 1, "frame_multiple": 4, "seed": 0, "sort_first_epoch": True}
        return Batcher(dataset, **options, rows=rows, unreadable="drop").batch(0, 0)

    halves = [batch(range(0, 2)), batch(range(2, 4))]
    heard = halves[1].problems | halves[0].problems
    found, refused = [], []
    for made in (lambda: batch(None), lambda: halves[0].lacking(heard), lambda: halves[1].lacking(heard)):
        try:
            known = made()
            found.append((known.ids, known.seconds, list(known.problems.items())))
        except DataError as error:
            refused.append(str(error))
    if len(broken) == 4:
        assert len(refused) == 3
        assert len(set(refused)) == 1
        assert refused[0].startswith("no recording of a whole batch can be used:\nutterance 'u000'")
        return
    ids = tuple("" if member in broken else f"u00{member}" for member in range(4))
    assert found == [found[0]] * 3
    assert found[0][:2] == (ids, sum((30 + member) / 100 for member in range(4) if member not in broken))
    assert [row for row, _ in found[0][2]] == sorted(broken)
