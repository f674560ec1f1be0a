"""Features of pieces are the features of the whole clip."""

import numpy as np
import pytest

from dsrun.errors import DataError
from dsrun.speech import FeatureSettings, Normalization
from dsrun.speech.feature_stream import FeatureStream

SPECTROGRAM = FeatureSettings("log_spectrogram", 16_000)
CASES = {
    "log_spectrogram": SPECTROGRAM,
    "log_mel": FeatureSettings("log_mel", 16_000, num_mels=40),
    "hop longer than the window": FeatureSettings("log_spectrogram", 8000, window_ms=10, hop_ms=35),
    "uneven": FeatureSettings("log_spectrogram", 11_025, window_ms=25, hop_ms=10),
}


def normalization_of(bins):
    random = np.random.default_rng(0)
    return Normalization(random.random(bins).astype(np.float32), (0.5 + random.random(bins)).astype(np.float32))


@pytest.mark.parametrize("case", CASES)
def test_pieces_of_any_size_give_the_frames_of_the_whole_clip(case):
    settings, random = CASES[case], np.random.default_rng(1)
    samples = random.uniform(-1, 1, 9000).astype(np.float32)
    normalization = normalization_of(settings.num_bins)
    whole = normalization.apply(settings.compute(samples))
    for largest in (7, 300, 9000):
        stream, found, start = FeatureStream(settings, normalization), [], 0
        while start < len(samples):
            size = int(random.integers(0, largest + 1))
            found.append(stream.push(samples[start : start + size]))
            start += size
            # Each frame at once: whatever of the clip has come, its frames have.
            assert sum(map(len, found)) == settings.num_frames(min(start, len(samples)))
        stream.finish()
        if case == "log_mel":  # one ulp, where a float64 sum in another order falls to the other side
            np.testing.assert_allclose(np.concatenate(found), whole, rtol=0, atol=1e-5)
        else:
            np.testing.assert_array_equal(np.concatenate(found), whole)


def test_a_recording_shorter_than_a_window_is_an_error_at_its_end_as_for_a_whole_clip():
    samples = np.zeros(319, np.float32)
    stream = FeatureStream(SPECTROGRAM, normalization_of(161))
    stream.push(samples)
    with pytest.raises(DataError) as streamed:
        stream.finish()
    with pytest.raises(DataError) as whole:
        SPECTROGRAM.compute(samples)
    assert str(streamed.value) == str(whole.value)
