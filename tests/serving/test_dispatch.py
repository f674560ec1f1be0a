"""Batches are made as streams have chunks; nobody's trouble is anybody else's."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest

from dsrun.errors import UsageError
from dsrun.serving.dispatch import Dispatcher
from dsrun.serving.errors import BadSamples, NetworkFailed, Stopped, StreamEnded, TooFast, TooManyStreams
from tests.serving.speakers import RATE, Ear, GatedPool, hearing_of, pool, sound

CHUNK = np.zeros(hearing_of(GatedPool()).samples_needed(0), np.float32)  # samples that fill the first chunk
NEXT = np.zeros(4 * RATE // 100, np.float32)  # and each that follows


@pytest.fixture
def gated():
    streams = GatedPool()
    dispatcher = Dispatcher(streams, hearing_of(streams), most_waiting_seconds=0.1).start()
    yield dispatcher
    streams.allowed.release(1000)
    dispatcher.stop()


def speaker(dispatcher, *, chunks=0):
    ear = Ear()
    stream = dispatcher.open(ear.on_text, ear.on_failure)
    for number in range(chunks):
        stream.push(NEXT if number else CHUNK)
    return stream, ear


def begin_step(dispatcher):
    """Wait until a step has begun; it does not end before `allow`."""
    assert dispatcher.pool.begun.acquire(timeout=30)


def allow(dispatcher, steps=1):
    dispatcher.pool.allowed.release(steps)


def texts_spoken_together(format, clips, *, most_a_step=None):
    dispatcher = Dispatcher(pool(format), hearing_of(pool(format)), most_a_step=most_a_step)
    ears = [Ear() for _ in clips]

    def speak(clip, ear, block):
        stream = dispatcher.open(ear.on_text, ear.on_failure)
        for start in range(0, len(clip), block):
            stream.push(clip[start : start + block])
        stream.finish()

    with dispatcher:
        threads = [
            threading.Thread(target=speak, args=(clip, ear, 80 * (k + 1)))
            for k, (clip, ear) in enumerate(zip(clips, ears, strict=True))
        ]
        for thread in threads:
            thread.start()
        for thread, ear in zip(threads, ears, strict=True):
            thread.join(30)
            assert ear.over.wait(30)
        for ear in ears:
            assert not ear.failures
            assert [heard.is_final for heard in ear.heard] == [False] * (len(ear.heard) - 1) + [True]
        return [ear.text for ear in ears], dispatcher.figures


@pytest.mark.parametrize("format", ["int8", pytest.param("float32", marks=pytest.mark.slow)])
def test_a_streams_text_does_not_depend_on_who_else_speaks(format):
    clips = [sound(0.5 + 0.3 * seed, seed) for seed in range(4)]
    alone = [texts_spoken_together(format, [clip])[0][0] for clip in clips]
    together, figures = texts_spoken_together(format, clips)
    one_by_one, single = texts_spoken_together(format, clips, most_a_step=1)
    assert together == one_by_one == alone
    assert len(set(alone)) == 4
    assert set(single.batches) == {1}
    assert figures.finished == figures.opened == 4


def test_a_step_takes_one_chunk_of_every_stream_that_has_one_and_begins_as_soon_as_it_can(gated):
    (first, _), (second, _), (third, _) = (speaker(gated) for _ in range(3))
    first.push(CHUNK)
    begin_step(gated)  # alone: eager, nobody was waited for
    third.push(CHUNK)
    second.push(CHUNK)
    second.push(NEXT)
    first.push(NEXT)
    allow(gated, 3)
    begin_step(gated)
    begin_step(gated)
    slots = [stream.slot for stream in (first, third, second)]
    assert gated.pool.batches == [[slots[0]], [slots[1], slots[2], slots[0]], [slots[2]]], "the longest waiting first"


def test_without_batches_the_longest_waiting_stream_is_alone_in_a_step():
    streams = GatedPool()
    with Dispatcher(streams, hearing_of(streams), most_a_step=1) as dispatcher:
        speakers = [speaker(dispatcher, chunks=1)[0] for _ in range(3)]
        allow(dispatcher, 3)
        for _ in speakers:
            begin_step(dispatcher)
        assert streams.batches == [[stream.slot] for stream in speakers]


def test_who_speaks_faster_than_the_network_works_is_held_back_and_only_they(gated):
    fast, _ = speaker(gated, chunks=1)
    begin_step(gated)
    for _ in range(3):  # 120 ms wait, and 100 may
        fast.push(NEXT)
    with pytest.raises(TooFast, match=r"0.12 s of sound wait to be heard, at most 0.1 s may"):
        fast.push(NEXT)
    assert fast.wait_for_room(0.01) is False
    other, _ = speaker(gated, chunks=1)
    assert gated.figures.refused_blocks == 1
    allow(gated)
    begin_step(gated)
    assert fast.wait_for_room(30) is True
    fast.push(NEXT)
    assert fast.session.seconds == (len(CHUNK) + 4 * len(NEXT)) / RATE, "nothing of the block refused was taken"
    with pytest.raises(UsageError, match="longer than 0.1 s"):
        other.push(np.zeros(RATE, np.float32))


def test_a_stream_closed_in_the_middle_of_a_step_frees_its_slot_after_it_and_the_others_go_on(gated):
    gated.pool.most_streams = 2
    gated.pool.restart()
    (gone, gone_ear), (stays, ear) = speaker(gated), speaker(gated)
    with gated._changed:  # both in one step
        gone.push(CHUNK)
        stays.push(CHUNK)
    begin_step(gated)
    gone.close()
    gone.close()
    assert gated.pool.free == [], "the step still writes there"
    opened = []
    opener = threading.Thread(target=lambda: opened.append(speaker(gated)[0]))
    opener.start()  # waits for the slot instead of being refused
    allow(gated)
    opener.join(30)
    assert opened[0].slot == gone.slot
    with pytest.raises(TooManyStreams, match="2 streams are open"):
        speaker(gated)
    with pytest.raises(StreamEnded):
        gone.push(NEXT)
    with pytest.raises(StreamEnded):
        gone.wait_for_room(1)
    stays.finish()
    allow(gated, 10)
    assert ear.over.wait(30)
    assert (ear.text, gone_ear.text, gone_ear.failures) == ("a", "", [])


def test_a_stream_that_ends_when_all_of_its_text_is_out_is_told_so(gated):
    allow(gated)
    stream, ear = speaker(gated, chunks=1)
    wait_until(lambda: ear.heard)
    stream.finish()
    assert ear.over.wait(30)
    assert [(heard.new, heard.is_final) for heard in ear.heard] == [("a", False), ("", True)]
    assert ear.heard[-1].seconds == pytest.approx(0.04)
    assert gated.open_streams == 0
    stream.close()
    assert len(gated.pool.free) == 4


def test_bad_samples_are_refused_where_they_are_pushed_and_go_no_further(gated):
    (bad, bad_ear), (good, ear) = speaker(gated), speaker(gated)
    with pytest.raises(BadSamples):
        bad.push(np.full(1000, np.nan, np.float32)[: len(NEXT)])
    good.push(CHUNK)
    good.finish()
    allow(gated, 10)
    assert ear.over.wait(30)
    assert ear.text == "a"
    assert bad_ear.failures == []
    bad.push(CHUNK)  # what was refused left nothing behind


def test_a_callback_that_raises_ends_its_own_stream_alone(gated):
    def broken(heard):
        raise RuntimeError("the socket is gone")

    failures = []
    stream = gated.open(broken, failures.append)
    good, ear = speaker(gated)
    stream.push(CHUNK)
    good.push(CHUNK)
    good.finish()
    allow(gated, 10)
    assert ear.over.wait(30)
    wait_until(lambda: failures)
    assert "the socket is gone" in str(failures[0])
    with pytest.raises(StreamEnded):
        stream.push(NEXT)
    assert gated.figures.failed == 1


def test_an_error_of_the_network_ends_all_streams_with_words_and_new_ones_can_be_opened(gated):
    gated.pool.fails = True
    (one, first), (_, second) = speaker(gated, chunks=1), speaker(gated)
    allow(gated)
    for ear in (first, second):
        assert ear.over.wait(30)
        (error,) = ear.failures
        assert isinstance(error, NetworkFailed)
        assert "RESOURCE_EXHAUSTED: out of memory)" in str(error)
        assert "trace" not in str(error)
    with pytest.raises(StreamEnded):
        one.push(NEXT)
    gated.pool.fails = False
    stream, ear = speaker(gated, chunks=1)
    stream.finish()
    allow(gated, 10)
    assert ear.over.wait(30)
    assert ear.text == "a"
    assert len(gated.pool.free) == 4


def test_a_network_that_cannot_begin_anew_says_so_to_everybody_who_comes(gated):
    gated.pool.fails = gated.pool.cannot_restart = True
    _, ear = speaker(gated, chunks=1)
    allow(gated)
    assert ear.over.wait(30)
    with pytest.raises(NetworkFailed, match="no memory at all.*Restart the service"):
        speaker(gated)


def test_stopping_tells_those_who_speak_and_refuses_those_who_come():
    streams = GatedPool()
    dispatcher = Dispatcher(streams, hearing_of(streams))
    with pytest.raises(Stopped, match="not started"):
        speaker(dispatcher)
    dispatcher.start()
    stream, ear = speaker(dispatcher, chunks=1)
    begin_step(dispatcher)
    allow(dispatcher)
    dispatcher.stop()
    dispatcher.stop()
    assert [type(error) for error in ear.failures] == [Stopped]
    with pytest.raises(StreamEnded):
        stream.push(NEXT)
    with pytest.raises(Stopped, match="is stopping"):
        speaker(dispatcher)
    assert len(streams.free) == 4


def test_a_stream_that_is_over_leaves_nothing_behind(gated):
    allow(gated, 1000)
    stream, ear = speaker(gated, chunks=2)
    stream.finish()
    assert ear.over.wait(30)
    found = weakref.ref(stream.session)
    del stream, ear
    wait_until(lambda: gc.collect() is not None and found() is None)


def test_latency_is_from_a_chunks_last_sample_to_its_text(gated):
    stream, ear = speaker(gated)
    stream.push(CHUNK, spoken_at=time.monotonic() - 100.0)
    begin_step(gated)
    allow(gated, 10)
    wait_until(lambda: ear.heard)
    stream.finish()
    assert ear.over.wait(30)
    found = gated.figures_json()
    assert (found["steps"], found["chunks"], found["batches"], found["mean_batch"]) == (1, 1, {"1": 1}, 1.0)
    assert 100_000 <= found["latency"]["median_ms"] < 130_000
    assert found["ending"]["count"] == 1
    assert found["streams_finished"] == 1


def test_less_room_than_a_chunk_is_refused():
    streams = GatedPool()
    with pytest.raises(UsageError, match=r"at most 0.01 s may wait, and a chunk is 0.04 s"):
        Dispatcher(streams, hearing_of(streams), most_waiting_seconds=0.01)


def wait_until(condition):
    stop = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.002)
