"""Rooms, noise and level: measured from outside, against SciPy and against what was asked for."""

import json

import numpy as np
import pytest
import scipy.signal
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import dsrun.speech.acoustics as acoustics
from dsrun.errors import DataError
from dsrun.speech import (
    AudioSettings,
    Augmentation,
    Bank,
    Noise,
    Reverb,
    add_noise,
    augment_samples,
    augment_stages,
    change_gain,
    change_speed,
    load_bank,
    read_manifest,
    reverberate,
)

RATE = 16_000


def random(count, seed=0, level=0.1):
    return np.random.default_rng(seed).normal(0, level, count).astype(np.float32)


def decibels(signal, noise):
    """Ratio of energies, by NumPy in extended precision."""
    wide = [np.asarray(x, np.longdouble) for x in (signal, noise)]
    return float(10 * np.log10(np.sum(wide[0] ** 2) / np.sum(wide[1] ** 2)))


@settings(max_examples=60, deadline=None)
@given(
    snr_db=st.floats(-20, 40), length=st.integers(1, 3000), of_noise=st.integers(1, 5000), start=st.integers(0, 4999)
)
def test_the_measured_ratio_of_clip_to_added_noise_is_the_one_asked_for(snr_db, length, of_noise, start):
    clip = random(length, seed=length)
    noisy = add_noise(clip, random(of_noise, seed=of_noise, level=0.7), start=start % of_noise, snr_db=snr_db)
    # The sum is float32: its rounding is a noise of 2^-24 of the samples, so far below that it moves the ratio by less than 0.01 dB.
    added = noisy.astype(np.float64) - clip.astype(np.float64)
    assert decibels(clip, added) == pytest.approx(snr_db, abs=0.01)


def test_a_noise_shorter_than_the_clip_goes_round_and_a_longer_one_is_cut_at_its_start():
    clip = random(10, seed=1)
    short, long = np.arange(1, 5, dtype=np.float32), np.arange(1, 101, dtype=np.float32)
    for noise, start, expected in [
        (short, 2, [3, 4, 1, 2, 3, 4, 1, 2, 3, 4]),
        (long, 95, [96, 97, 98, 99, 100, 1, 2, 3, 4, 5]),
        (long, 7, list(range(8, 18))),
    ]:
        added = add_noise(clip, noise, start=start, snr_db=0.0).astype(np.float64) - clip
        np.testing.assert_allclose(added / added[0], np.array(expected) / expected[0], rtol=1e-5)


def test_silence_stays_silence_and_a_silent_piece_of_noise_adds_nothing():
    silent, clip = np.zeros(99, np.float32), random(99)
    gap = np.concatenate([random(50), np.zeros(200, np.float32)])
    assert add_noise(silent, clip, start=0, snr_db=0.0).tobytes() == silent.tobytes()
    assert add_noise(clip, gap, start=60, snr_db=0.0).tobytes() == clip.tobytes()
    assert reverberate(silent, clip).tobytes() == silent.tobytes()


def test_an_impulse_in_a_room_sounds_as_the_rooms_response_with_its_peak_where_the_impulse_was():
    response = random(300, seed=3)
    response[40] = -2.0  # the direct sound, behind some of the recording's own noise
    impulse = np.zeros(1000, np.float32)
    impulse[500] = 0.5
    heard = reverberate(impulse, response)
    expected = np.zeros(1000)
    expected[460:760] = response
    expected *= 0.5 / np.sqrt(np.sum(expected**2))
    np.testing.assert_allclose(heard, expected, atol=1e-8)
    assert np.abs(heard).argmax() == 500


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 2000), of_response=st.integers(1, 3000), peak=st.integers(0, 2999))
def test_reverberation_is_scipys_convolution_from_the_direct_sound_on_with_the_clips_energy(length, of_response, peak):
    clip, response = random(length, seed=length), random(of_response, seed=of_response, level=0.02)
    response[peak % of_response] = 1.0
    heard = reverberate(clip, response)
    full = scipy.signal.convolve(clip.astype(np.float64), response.astype(np.float64), method="direct")
    wanted = full[peak % of_response :][:length]
    wanted = np.pad(wanted, (0, length - len(wanted)))
    scale = np.sqrt(np.sum(clip.astype(np.float64) ** 2) / np.sum(wanted**2))
    np.testing.assert_allclose(heard, wanted * scale, atol=1e-6)
    assert decibels(heard, clip) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("gain_db", [-20.0, 0.0, 6.0])
def test_a_gain_changes_the_level_by_its_decibels(gain_db):
    clip = random(1000)
    assert decibels(change_gain(clip, gain_db), clip) == pytest.approx(gain_db, abs=1e-5)


@given(least=st.integers(1, 10**9))
def test_an_fft_is_never_shorter_than_asked_and_less_than_a_third_longer(least):
    size = acoustics._fast_size(least)
    assert least <= size <= max(least * 4 / 3, 1)


def bank(*clips):
    return Bank(tuple(f"recording {n}" for n in range(len(clips))), clips)


EVERYTHING = Augmentation(
    speeds=(0.9, 1.0, 1.1),
    gain_db=(-10.0, 10.0),
    noise=Noise(bank(random(5000, 1), random(20_000, 2)), (0.0, 20.0), 0.7),
    reverb=Reverb(bank(random(500, 3), random(900, 4)), 0.5),
)


def heard(clip, augmentation=EVERYTHING, *, seed=1, epoch=0, id="a"):
    return augment_samples(clip, augmentation=augmentation, sample_rate=RATE, seed=seed, epoch=epoch, id=id)


def test_what_an_epoch_hears_depends_on_seed_epoch_and_id_and_repeats_its_bits():
    clip = random(8000)
    keys = [{}, {"seed": 2}, {"epoch": 1}, {"id": "b"}]
    sounds = [heard(clip, **key).tobytes() for key in keys]
    assert len(set(sounds)) == len(keys)
    assert [heard(clip.copy(), **key).tobytes() for key in keys] == sounds


def test_the_stages_are_speed_room_noise_gain_and_each_works_on_the_one_before():
    clip = random(8000)
    for epoch in range(30):
        stages = list(augment_stages(clip, augmentation=EVERYTHING, sample_rate=RATE, seed=1, epoch=epoch, id="a"))
        names = [stage.name for stage in stages]
        assert names == [name for name in ("speed", "reverb", "noise", "gain", "level") if name in names]
        assert stages[-1].samples.tobytes() == heard(clip, epoch=epoch).tobytes()
        before = dict(zip(names, [clip, *(stage.samples for stage in stages)], strict=False))
        after = {stage.name: stage for stage in stages}
        gain = float(after["gain"].drawn.removesuffix(" dB"))
        assert decibels(after["gain"].samples, before["gain"]) == pytest.approx(gain, abs=0.06)  # told to 0.1 dB
        assert -10 <= gain <= 10
        if "noise" in names:
            ratio = decibels(before["noise"], after["noise"].samples.astype(np.float64) - before["noise"])
            assert ratio == pytest.approx(float(after["noise"].drawn.split(", ")[1].split(" dB")[0]), abs=0.06)
            assert 0 <= ratio <= 20
        if "reverb" in names:
            assert after["reverb"].drawn in ("room recording 0", "room recording 1")


def test_room_and_noise_come_to_their_shares_of_clips_and_every_recording_is_used():
    trials = 400
    told = []
    for epoch in range(trials):
        found = augment_stages(random(50), augmentation=EVERYTHING, sample_rate=RATE, seed=1, epoch=epoch, id="a")
        told.append({stage.name: stage.drawn for stage in found})
    for name, share in (("noise", 0.7), ("reverb", 0.5)):
        count = sum(name in stages for stages in told)
        assert abs(count - trials * share) < 4 * np.sqrt(trials * share * (1 - share))
        for recording in ("recording 0", "recording 1"):
            assert any(recording in stages.get(name, "") for stages in told)


def test_one_augmentation_more_leaves_what_the_others_draw():
    clip = random(8000)
    only_gain = Augmentation(speeds=EVERYTHING.speeds, gain_db=EVERYTHING.gain_db)

    def drawn(augmentation, epoch):
        stages = augment_stages(clip, augmentation=augmentation, sample_rate=RATE, seed=1, epoch=epoch, id="a")
        return {stage.name: stage.drawn for stage in stages if stage.name in ("speed", "gain")}

    for epoch in range(20):
        assert drawn(only_gain, epoch) == drawn(EVERYTHING, epoch)


def test_with_speed_alone_the_clip_is_what_it_was_before_there_was_anything_else():
    clip = random(8000) * 20  # peaks above full scale, as a lossy codec makes them, are left alone
    for epoch in range(8):
        found = heard(clip, Augmentation(speeds=(0.9, 1.0, 1.1), time_masks=2), epoch=epoch)
        assert found.tobytes() in {change_speed(clip, speed, RATE).tobytes() for speed in (0.9, 1.0, 1.1)}


def test_a_clip_that_comes_out_too_loud_is_turned_down_as_a_whole():
    clip = random(8000)
    loud = heard(clip, Augmentation(gain_db=(60.0, 60.0)))
    assert np.abs(loud).max() == 1
    np.testing.assert_allclose(loud, clip / np.abs(clip).max(), rtol=1e-6)
    (gain, level) = augment_stages(
        clip, augmentation=Augmentation(gain_db=(60.0, 60.0)), sample_rate=RATE, seed=1, epoch=0, id="a"
    )
    assert (gain.drawn, level.name) == ("+60.0 dB", "level")
    assert level.drawn == f"{-60 - 20 * np.log10(np.abs(clip).max()):+.1f} dB, to full scale"


@pytest.fixture
def noises(tmp_path):
    """A function that writes recordings and gives their manifest, without texts."""

    def write(**recordings):
        rows = []
        for name, (samples, rate) in recordings.items():
            soundfile.write(tmp_path / f"{name}.wav", samples, rate, subtype="FLOAT")
            rows.append({"audio_filepath": f"{name}.wav", "duration": len(samples) / rate})
        path = tmp_path / "noises.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_manifest(path, transcripts="optional")

    return write


def test_a_bank_is_the_manifests_recordings_however_long(noises):
    clips = {"a": random(3000, 1), "b": random(500, 2)}
    found = load_bank(
        noises(**{name: (clip, RATE) for name, clip in clips.items()}), AudioSettings(RATE, max_seconds=0.01)
    )
    assert found.ids == ("a", "b")
    assert [samples.tobytes() for samples in found.samples] == [clip.tobytes() for clip in clips.values()]
    assert [place.rsplit("/", 1)[-1] for place, _ in found.recordings] == ["a.wav", "b.wav"]


def test_noises_of_another_rate_are_resampled_only_where_the_config_says_so(noises):
    utterances = noises(a=(random(4000), 8000))
    with pytest.raises(DataError, match="recording 'a' .line 1.*8000 Hz, the config says 16000"):
        load_bank(utterances, AudioSettings(RATE))
    assert len(load_bank(utterances, AudioSettings(RATE, resample=True)).samples[0]) == 8000


def test_every_bad_recording_is_named_and_more_than_memory_is_kept_for_is_refused(noises, monkeypatch):
    utterances = noises(good=(random(99), RATE), zero=(np.zeros(99), RATE), nan=(np.full(99, np.nan), RATE))
    with pytest.raises(DataError, match=r"'zero' .*every sample is zero.\n.*'nan' .*NaN"):
        load_bank(utterances, AudioSettings(RATE))
    monkeypatch.setattr(acoustics, "BANK_BYTES", 1000)
    with pytest.raises(DataError, match="hours of noises or impulse responses at 16000 Hz; .* Leave some out"):
        load_bank(utterances, AudioSettings(RATE))
