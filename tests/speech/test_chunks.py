"""Chunks: one grid for all, nothing lost, nothing held that is not needed."""

import numpy as np
import pytest

from dsrun.speech import FeatureSettings
from dsrun.speech.chunks import Chunk, ChunkSettings, cut_into_chunks

FEATURES = FeatureSettings(kind="log_spectrogram", sample_rate=1000, window_ms=8, hop_ms=4)
SETTINGS = ChunkSettings(length=6, overlap=2, stride=3, features=FEATURES)


def pieces(samples, size):
    return (samples[start : start + size] for start in range(0, len(samples), size))


@pytest.mark.parametrize("size", [1, 13, 1000])
def test_chunks_of_any_length_lie_on_one_grid_and_every_frame_is_in_one(size):
    for count in range(0, 400, 3):
        samples = np.random.default_rng(count).standard_normal(count).astype(np.float32)
        chunks = list(cut_into_chunks(pieces(samples, size), SETTINGS))
        assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        for chunk in chunks:
            start = chunk.first_frame * SETTINGS.step
            assert np.array_equal(chunk.samples, samples[start : start + len(chunk.samples)])
            assert len(chunk.samples) <= SETTINGS.num_samples
        ends = [-(-FEATURES.num_frames(len(c.samples)) // SETTINGS.stride) + c.first_frame for c in chunks]
        assert ends[-1] == -(-FEATURES.num_frames(count) // SETTINGS.stride)
        for end, following in zip(ends, chunks[1:], strict=False):
            assert end - following.first_frame >= SETTINGS.overlap
        if (
            len(chunks) > 1
        ):  # the last one is as long as the others, or one output frame less where that has no whole window
            assert {end - chunk.first_frame for end, chunk in zip(ends, chunks, strict=True)} <= {
                SETTINGS.length,
                SETTINGS.length - 1,
            }


def test_a_chunks_features_are_the_recordings_own():
    samples = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    whole = FEATURES.compute(samples)
    for chunk in cut_into_chunks(pieces(samples, 50), SETTINGS):
        found = FEATURES.compute(chunk.samples)
        first = chunk.first_frame * SETTINGS.stride
        assert np.array_equal(found, whole[first : first + len(found)])


def test_a_recording_is_not_held_whole():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield np.zeros(100, np.float32)

    chunks = cut_into_chunks(endless(), SETTINGS)
    for _ in range(50):
        next(chunks)
    assert sum(taken) * 100 <= 50 * SETTINGS.num_samples + 200


def test_digital_silence_is_known_from_a_quiet_room():
    assert Chunk(0, np.full(10, 0.25, np.float32), True).is_digital_silence
    assert not Chunk(0, np.array([0, 0, 1e-5], np.float32), True).is_digital_silence
