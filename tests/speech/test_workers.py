"""Workers and the prefetcher: order, bits, errors and threads that end, whatever their number."""

import threading
import time
from itertools import count, islice

import pytest

from dsrun.errors import DataError
from dsrun.speech import (
    AudioSettings,
    Augmentation,
    Batcher,
    FeatureCache,
    FeatureSettings,
    Utterance,
    Workers,
    load_dataset,
    prefetch,
)
from tests.corpus import write_tone

COUNTS = [0, 1, 2, 5]


@pytest.mark.parametrize("number", COUNTS)
def test_results_come_in_the_order_of_the_items_whoever_was_done_first(number):
    def slow_first(item):
        time.sleep(0.02 if item % 3 == 0 else 0.0)
        return item * item

    assert list(Workers(number).map(slow_first, range(30))) == [item * item for item in range(30)]


def test_two_workers_are_at_work_at_once():
    meeting = threading.Barrier(2, timeout=20)
    assert sorted(Workers(2).map(lambda _: meeting.wait(), range(2))) == [0, 1]


@pytest.mark.parametrize("number", COUNTS)
def test_an_exception_is_raised_at_its_item_and_what_nobody_has_begun_is_left_alone(number):
    begun = []

    def work(item):
        begun.append(item)
        if item == 3:
            raise OSError("disk")
        return item

    results = Workers(number).map(work, count())
    assert list(islice(results, 3)) == [0, 1, 2]
    with pytest.raises(OSError, match="disk"):
        next(results)
    time.sleep(0.05)
    assert len(begun) <= 4 + 4 * max(number, 1)


@pytest.mark.parametrize("number", [2, 5])
def test_only_a_few_items_are_under_way_whatever_their_number(number):
    taken = []

    def items():
        for item in count():
            taken.append(item)
            yield item

    results = Workers(number).map(lambda item: item, items())
    assert list(islice(results, 10)) == list(range(10))
    assert len(taken) <= 10 + 4 * number
    results.close()


def write_corpus(folder, how_many=7):
    seconds = [0.6 + 0.1 * (number % 4) for number in range(how_many)]
    return [
        Utterance(f"u{n}", write_tone(folder / f"{n}.wav", seconds=length), length, "a", line=n + 1)
        for n, length in enumerate(seconds)
    ]


def load(utterances, number, **options):
    return load_dataset(
        utterances,
        [[1, 2]] * len(utterances),
        audio=AudioSettings(16_000),
        features=FeatureSettings("log_spectrogram", 16_000),
        cache=FeatureCache(None),
        seed=3,
        workers=Workers(number),
        **options,
    )


def test_no_bit_of_a_dataset_or_its_batches_depends_on_the_number_of_workers(tmp_path):
    utterances = write_corpus(tmp_path)
    augmentation = Augmentation((0.9, 1.1), time_masks=1, max_time_frames=9, frequency_masks=1, max_frequency_bins=20)

    def bits(number):
        dataset = load(utterances, number, augmentation=augmentation)
        batcher = Batcher(
            dataset,
            global_batch=3,
            buckets=2,
            frame_multiple=8,
            seed=1,
            sort_first_epoch=False,
            workers=Workers(number),
        )
        arrays = [(b.ids, b.features.tobytes(), b.num_frames.tobytes(), b.labels.tobytes()) for b in batcher.epoch(4)]
        return dataset.ids, dataset.recordings, arrays

    assert len({str(bits(number)) for number in COUNTS}) == 1


@pytest.mark.parametrize("number", COUNTS)
def test_every_unusable_file_is_named_in_the_order_of_the_manifest_and_progress_counts_up(tmp_path, number):
    utterances = write_corpus(tmp_path)
    for bad in (1, 4, 5):
        utterances[bad].audio.write_bytes(b"RIFF")
    seen = []
    with pytest.raises(DataError) as caught:
        load(utterances, number, on_progress=lambda done, total: seen.append((done, total)))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        f"utterance 'u{n}' (line {n + 1})" for n in (1, 4, 5)
    ]
    assert seen == [(done, 7) for done in range(1, 8)]


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "dsrun-prefetch"]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_prefetching_changes_neither_items_nor_order(depth):
    assert [item for item, _ in prefetch(lambda: iter(range(50)), depth)] == list(range(50))
    assert prefetch_threads() == []


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_exception_reaches_the_consumer_after_the_good_items(depth, error):
    def items():
        yield from range(5)
        raise error

    results = prefetch(items, depth)
    assert [item for item, _ in islice(results, 5)] == list(range(5))
    with pytest.raises(type(error)) as caught:
        next(results)
    assert caught.value is error
    assert prefetch_threads() == []


@pytest.mark.parametrize("depth", [1, 3])
def test_leaving_the_loop_early_ends_the_thread_which_ran_at_most_depth_items_ahead(depth):
    made = []

    def items():
        for number in count():
            made.append(number)
            yield number

    results = prefetch(items, depth)
    assert [next(results)[0] for _ in range(4)] == [0, 1, 2, 3]
    deadline = time.monotonic() + 5
    while len(made) < 4 + depth + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 4 + depth + 1  # depth in the queue and one in hand
    results.close()
    assert prefetch_threads() == []


def test_the_wait_is_measured_where_the_producer_is_slow_and_not_where_the_consumer_is():
    def slow():
        for number in range(3):
            time.sleep(0.05)
            yield number

    for depth in (0, 2):
        assert all(seconds > 0.03 for _, seconds in prefetch(slow, depth))
    waits = []
    for _, seconds in prefetch(slow, 2):
        waits.append(seconds)
        time.sleep(0.3)
    assert max(waits[1:]) < 0.03  # made while the consumer slept
