"""Features against scipy and a slow mel filter bank; normalisation against NumPy over all frames at once; the cache under damage."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.signal

from dsrun.errors import DataError, UsageError
from dsrun.speech import (
    FeatureCache,
    FeatureSettings,
    Normalization,
    estimate_normalization,
    log_mel,
    log_spectrogram,
)
from dsrun.speech.features import LOG_FLOOR

RATE = 16_000
LINEAR = FeatureSettings("log_spectrogram", RATE)
MEL = FeatureSettings("log_mel", RATE, num_mels=80)


def noise(count, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, count).astype(np.float32)


def cubes(count, seed=0):
    """Values spread over six decades, as spectra are."""
    return (noise(count, seed) ** 3).astype(np.float32)


@pytest.mark.parametrize(
    ("rate", "window_ms", "hop_ms"),
    [(16_000, 20, 10), (8_000, 20, 10), (44_100, 20, 10), (16_000, 25, 10), (22_050, 10, 5), (11_000, 5, 4)],
)
@pytest.mark.parametrize("samples", [noise(30_000), cubes(7_777)], ids=["noise", "cubes"])
def test_log_spectrogram_is_the_log_of_scipys_density(rate, window_ms, hop_ms, samples):
    size, hop = (
        round(rate * window_ms / 1000),
        round(rate * hop_ms / 1000),
    )  # 441, 220 and 55 are odd or have an odd overlap
    _, _, power = scipy.signal.spectrogram(
        samples.astype(np.float64),
        rate,
        window="hann",
        nperseg=size,
        noverlap=size - hop,
        detrend=False,
        scaling="density",
    )
    ours = log_spectrogram(samples, sample_rate=rate, window_ms=window_ms, hop_ms=hop_ms)
    assert ours.dtype == np.float32
    # Half a float32 ulp of a logarithm below 32 is 1e-6; the float64 transforms agree far better.
    np.testing.assert_allclose(ours, np.log(power.T + LOG_FLOOR), rtol=0, atol=1.1e-6)


def test_a_tone_peaks_in_its_bin_in_every_frame():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    assert set(log_spectrogram(tone, sample_rate=RATE).argmax(axis=1)) == {20}  # bins are 50 Hz apart


@pytest.mark.parametrize("settings", [LINEAR, MEL], ids=["linear", "mel"])
def test_silence_is_the_finite_floor(settings):
    np.testing.assert_array_equal(settings.compute(np.zeros(RATE, np.float32)), np.float32(np.log(1e-14)))


@pytest.mark.parametrize("settings", [LINEAR, MEL, replace(LINEAR, window_ms=25.0)], ids=["linear", "mel", "25 ms"])
def test_settings_foretell_the_shape_for_every_number_of_samples(settings):
    for count in range(settings.window, settings.window + 2 * settings.hop + 2):
        assert settings.compute(noise(count)).shape == (settings.num_frames(count), settings.num_bins)
    assert settings.num_frames(settings.window) == 1
    assert settings.num_frames(settings.window + settings.hop - 1) == 1
    assert settings.num_frames(settings.window + settings.hop) == 2


@pytest.mark.parametrize("settings", [LINEAR, MEL], ids=["linear", "mel"])
@pytest.mark.parametrize("count", [0, 1, 319])
def test_a_clip_shorter_than_a_window_has_no_frames_and_is_refused(settings, count):
    assert settings.num_frames(count) == 0
    with pytest.raises(DataError, match=rf"^{count} samples are shorter than one window of 320 \(20 ms\)"):
        settings.compute(noise(count))


def test_a_trailing_piece_shorter_than_a_hop_changes_nothing():
    samples = noise(RATE)
    whole = log_spectrogram(samples[: 320 + 10 * 160], sample_rate=RATE)
    np.testing.assert_array_equal(log_spectrogram(samples[: 320 + 10 * 160 + 159], sample_rate=RATE), whole)


def slow_log_mel(samples, rate, num_mels, window_ms, hop_ms):
    """One frame, one bin, one filter at a time."""
    size, hop = round(rate * window_ms / 1000), round(rate * hop_ms / 1000)
    fft_size = 1
    while fft_size < size:
        fft_size *= 2
    window = scipy.signal.get_window("hann", size)
    to_mel = lambda hertz: 2595 * np.log10(1 + hertz / 700)  # noqa: E731
    corners = [700 * (10 ** (k * to_mel(rate / 2) / (num_mels + 1) / 2595) - 1) for k in range(num_mels + 2)]
    rows = []
    for start in range(0, len(samples) - size + 1, hop):
        spectrum = np.fft.fft(samples[start : start + size].astype(np.float64) * window, fft_size)
        density = np.abs(spectrum) ** 2 / (rate * np.sum(window**2))
        row = np.zeros(num_mels)
        for bin in range(fft_size // 2 + 1):
            both_sides = density[bin] * (1 if bin in (0, fft_size // 2) else 2)
            for mel in range(num_mels):
                row[mel] += both_sides * np.interp(bin * rate / fft_size, corners[mel : mel + 3], [0, 1, 0])
        rows.append(np.log(row + LOG_FLOOR))
    return np.array(rows)


@pytest.mark.parametrize(
    ("rate", "num_mels", "window_ms", "hop_ms"), [(16_000, 80, 20, 10), (8_000, 40, 25, 10), (22_050, 20, 10, 5)]
)
def test_log_mel_equals_filters_applied_one_by_one(rate, num_mels, window_ms, hop_ms):
    samples = cubes(round(rate * 0.06))
    ours = log_mel(samples, sample_rate=rate, num_mels=num_mels, window_ms=window_ms, hop_ms=hop_ms)
    assert ours.dtype == np.float32
    expected = slow_log_mel(samples, rate, num_mels, window_ms, hop_ms)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1.1e-6)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_each_of_80_mel_filters_hears_something(rate):
    # With an unpadded 320-sample transform the lowest of 80 filters, 0 to 45 Hz, lay between bins 0 and 50 Hz: always silent.
    assert log_mel(noise(rate), sample_rate=rate).min() > np.log(LOG_FLOOR) + 1


def test_so_many_mels_that_a_filter_is_always_silent_are_refused():
    with pytest.raises(UsageError, match=r"num_mels is 300: \d+ filters lie between two bins"):
        log_mel(noise(RATE), sample_rate=RATE, num_mels=300)


def test_every_setting_changes_the_key():
    others = {"kind": "log_spectrogram", "sample_rate": 8000, "window_ms": 25, "hop_ms": 5, "num_mels": 40}
    keys = {replace(MEL, **{name: value}).key() for name, value in others.items()} | {MEL.key()}
    assert len(keys) == len(others) + 1
    assert replace(MEL, window_ms=20.0).key() == MEL.key()


def clips(mean=0.0, deviation=1.0):
    rng = np.random.default_rng(1)
    spread = rng.uniform(0.5, 2, 7) * deviation
    return [(mean + spread * rng.standard_normal((count, 7))).astype(np.float32) for count in (50, 1, 333, 120)]


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-15.0, 4.0), (-30.0, 0.01)])
def test_normalization_equals_mean_and_deviation_of_all_frames_together(mean, deviation):
    frames = np.concatenate(clips(mean, deviation)).astype(np.float64)
    found = estimate_normalization(iter(clips(mean, deviation)))
    assert found.mean.dtype == found.deviation.dtype == np.float32
    np.testing.assert_allclose(found.mean, frames.mean(axis=0), rtol=1e-6, atol=1e-7)  # float32 holds the result
    np.testing.assert_allclose(found.deviation, frames.std(axis=0), rtol=1e-6)


def test_normalized_training_frames_have_mean_0_and_deviation_1():
    found = estimate_normalization(clips(-15, 4))
    frames = np.concatenate([found.apply(clip) for clip in clips(-15, 4)])
    assert frames.dtype == np.float32
    np.testing.assert_allclose(frames.mean(axis=0, dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(frames.std(axis=0, dtype=np.float64), 1, atol=1e-6)


def test_a_bin_that_never_varies_becomes_0_and_not_nan():
    silent = np.full((10, 3), np.log(LOG_FLOOR), np.float32)
    np.testing.assert_array_equal(estimate_normalization([silent]).apply(silent), 0)


def test_normalization_of_nothing_is_an_error():
    with pytest.raises(DataError, match="no frames"):
        estimate_normalization([])


def test_normalization_survives_a_checkpoint_bit_for_bit():
    found = estimate_normalization(clips())
    again = Normalization.from_arrays(found.to_arrays())
    assert found.mean.tobytes() == again.mean.tobytes()
    assert found.deviation.tobytes() == again.deviation.tobytes()


class Counted:
    """A computation that counts how often it is made."""

    def __init__(self, features):
        self.features, self.times = features, 0

    def __call__(self):
        self.times += 1
        return self.features


def test_a_hit_gives_the_computed_bytes_without_computing(tmp_path):
    compute = Counted(noise(60).reshape(12, 5))
    first = FeatureCache(tmp_path / "new" / "folder").get("a", compute)
    second = FeatureCache(tmp_path / "new" / "folder").get("a", compute)
    assert compute.times == 1
    assert (second.dtype, second.shape, second.tobytes()) == (first.dtype, first.shape, first.tobytes())


def test_keys_do_not_share_entries(tmp_path):
    cache = FeatureCache(tmp_path)
    a, b = noise(10, 0).reshape(2, 5), noise(10, 1).reshape(2, 5)
    cache.get("a", lambda: a)
    np.testing.assert_array_equal(cache.get("b", lambda: b), b)
    np.testing.assert_array_equal(cache.get("a", lambda: b), a)


def test_without_a_folder_nothing_is_kept():
    compute = Counted(noise(10).reshape(2, 5))
    cache = FeatureCache(None)
    cache.get("a", compute)
    cache.get("a", compute)
    assert compute.times == 2


def test_a_file_with_any_byte_flipped_or_any_tail_missing_is_made_again(tmp_path):
    cache, features = FeatureCache(tmp_path), noise(6).reshape(2, 3)
    cache.get("a", lambda: features)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    flipped = [good[:i] + bytes([good[i] ^ 4]) + good[i + 1 :] for i in range(len(good))]
    for damaged in [*flipped, *(good[:size] for size in range(len(good)))]:
        path.write_bytes(damaged)
        compute = Counted(features)
        np.testing.assert_array_equal(cache.get("a", compute), features)
        assert compute.times == 1
        assert path.read_bytes() == good


def test_a_cache_file_is_an_ordinary_npy_and_nothing_else_is_left(tmp_path):
    FeatureCache(tmp_path).get("a", lambda: noise(6).reshape(2, 3))
    (path,) = tmp_path.iterdir()
    np.testing.assert_array_equal(np.load(path), noise(6).reshape(2, 3))


def test_a_failed_computation_leaves_no_file(tmp_path):
    def fail():
        raise DataError("broken")

    with pytest.raises(DataError, match="broken"):
        FeatureCache(tmp_path).get("a", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(
        UsageError, match=r"data\.cache: .*file/cache: features cannot be kept there \(Not a directory\)"
    ):
        FeatureCache(tmp_path / "file" / "cache").get("a", lambda: noise(6).reshape(2, 3))


@pytest.mark.parametrize("num_frames", [1, 127, 128, 129, 300])
def test_computing_some_frames_at_a_time_changes_no_bit(num_frames):
    samples = np.random.default_rng(5).standard_normal(320 + 160 * (num_frames - 1)).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), 320)[::160]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(320) / 320)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2 / (16_000 * np.sum(window**2))
    power[:, 1:-1] *= 2
    found = log_spectrogram(samples, sample_rate=16_000)
    assert found.tobytes() == np.log(power + 1e-14).astype(np.float32).tobytes()
