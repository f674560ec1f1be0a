"""A session's text is that of the whole recording, in whatever blocks it came; its chunks know since when they wait."""

import jax
import numpy as np
import pytest

from dsrun.ctc import greedy_search
from dsrun.deploy.network import logits
from dsrun.errors import DataError
from dsrun.serving.errors import BadSamples, StreamEnded
from dsrun.serving.session import Session
from tests.serving.speakers import ALPHABET, FEATURES, NORMALIZATION, RATE, hearing_of, pool, sound


def whole_text(samples, network, arrays):
    features = NORMALIZATION.apply(FEATURES.compute(samples))
    scores, counts = jax.jit(logits, static_argnums=0)(
        network, arrays, features[None], np.array([len(features)], np.int32)
    )
    return ALPHABET.decode(greedy_search(scores, counts)[0])


def run(session, slots):
    """Step until nothing waits."""
    while session.waiting_since is not None:
        chunk = session.next_chunk()
        session.hear(slots.step([slots_of[session]], chunk.features[None], np.array([chunk.num_frames], np.int32))[0])


slots_of = {}


@pytest.mark.parametrize("block", [80, 333, 100_000])
def test_text_is_that_of_the_whole_pass_in_whatever_blocks_the_samples_come(block):
    streams, samples = pool("int8"), sound(0.9, seed=1)
    session = Session(hearing_of(streams))
    slots_of[session] = streams.open()
    for start in range(0, len(samples), block):
        session.add(session.features_of(samples[start : start + block]), at=0.0)
        run(session, streams)
    session.add(session.last_features(), at=1.0)
    session.end(at=1.0)
    run(session, streams)
    streams.close(slots_of.pop(session))
    assert session.is_finished
    assert session.text == whole_text(samples, streams.network, streams._arrays)
    assert len(session.text) > 3, "a network that says nothing proves nothing"
    assert session.seconds == 0.9
    assert session.heard_seconds == pytest.approx(FEATURES.num_frames(len(samples)) / 100)


def test_a_chunk_waits_since_the_sample_that_filled_it_was_spoken():
    hearing = hearing_of(pool("int8"))
    assert hearing.frames_a_chunk == 6
    assert hearing.chunk_seconds == 0.06
    samples = sound(0.2, seed=2)
    spoken, arrived = Session(hearing), Session(hearing)
    for session, at in ((spoken, 10.0), (arrived, None)):
        session.add(session.features_of(samples), at=99.0, spoken_at=at)
    # Six windows of 20 ms every 10 ms end after 70 ms, twelve after 130 ms.
    assert [spoken.next_chunk().since for _ in range(3)] == pytest.approx([10 - 0.13, 10 - 0.07, 10 - 0.01])
    assert [arrived.next_chunk().since for _ in range(3)] == [99.0] * 3
    assert spoken.waiting_since is None


def test_what_is_no_sound_is_refused_and_nothing_of_it_is_kept():
    session = Session(hearing_of(pool("int8")))
    session.features_of(np.zeros(100, np.float32))
    for bad, message in [
        (np.array([0.0, np.nan], np.float32), "sample 101 is NaN or infinite"),
        (np.array([np.inf], np.float32), "sample 100 is"),
        (np.zeros(5), r"float64 \(5,\)"),
        (np.zeros((5, 1), np.float32), r"float32 \(5, 1\)"),
        ([0.0], "samples are list"),
    ]:
        with pytest.raises(BadSamples, match=message):
            session.features_of(bad)
    assert session.seconds == 100 / RATE


def test_a_stream_that_is_shorter_than_a_window_is_told_so_and_one_that_ended_takes_no_more():
    session = Session(hearing_of(pool("int8")))
    session.add(session.features_of(np.zeros(100, np.float32)), at=0.0)
    with pytest.raises(DataError, match="100 samples are shorter than one window of 160"):
        session.last_features()
    session.add(session.features_of(np.zeros(100, np.float32)), at=0.0)
    assert len(session.last_features()) == 1
    session.end(at=0.0)
    with pytest.raises(StreamEnded):
        session.end(at=0.0)
    with pytest.raises(StreamEnded):
        session.add(np.zeros((0, 6), np.float32), at=0.0)
