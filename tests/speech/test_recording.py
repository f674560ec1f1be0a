"""Recordings read piece by piece against the same files read whole, and every way in which they can be wrong."""

import numpy as np
import pytest
import soundfile

from dsrun.errors import DataError
from dsrun.speech import AudioSettings, read_audio
from dsrun.speech import recording as recordings
from dsrun.speech.recording import RawFormat, open_recording

RATE = 16_000
FORMATS = [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_24"), ("ogg", "VORBIS"), ("mp3", None)]


def noise(seconds, rate, channels=1, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal((int(seconds * rate), channels))


def read(path, channel="mix", **options):
    with open_recording(path, sample_rate=RATE, channel=channel, **options) as recording:
        return np.concatenate(list(recording.samples()))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(recordings, "BLOCK", 5000)


@pytest.mark.parametrize(("ending", "subtype"), FORMATS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_pieces_are_bit_for_bit_the_file_read_whole_and_resampled_whole(tmp_path, ending, subtype, rate):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, noise(0.7, rate), rate, subtype=subtype)
    whole = read_audio(path, AudioSettings(RATE, resample=True))
    assert np.array_equal(read(path), whole)


def test_channels_are_mixed_to_their_mean_or_one_is_taken(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(0.5, RATE, channels=3), RATE, subtype="FLOAT")
    samples = soundfile.read(path, dtype="float32")[0]
    assert np.array_equal(read(path, channel=2), samples[:, 2])
    assert read(path) == pytest.approx(samples.mean(axis=1), abs=1e-7)
    with pytest.raises(DataError, match="3 channels, so there is no channel 3"):
        read(path, channel=3)


def test_what_is_done_to_the_samples_is_said_and_nothing_where_nothing_is_done(tmp_path):
    said = {}
    for name, rate, channels in (("plain", RATE, 1), ("stereo", 48_000, 2), ("telephone", 8_000, 1)):
        soundfile.write(tmp_path / f"{name}.wav", noise(0.1, rate, channels), rate)
        with open_recording(tmp_path / f"{name}.wav", sample_rate=RATE, channel="mix") as recording:
            said[name] = recording.conversion
    assert said["plain"] == ""
    assert said["stereo"] == "2 channels mixed, 48000 Hz resampled to 16000"
    assert "nothing above 4 kHz" in said["telephone"]


def test_channels_in_opposite_phase_are_refused_instead_of_mixed_to_silence(tmp_path):
    path = tmp_path / "a.wav"
    left = noise(0.5, RATE)
    soundfile.write(path, np.hstack([left, -left]), RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=r"cancel each other.*--channel 0"):
        read(path)
    assert np.array_equal(read(path, channel=0), -read(path, channel=1))
    soundfile.write(path, np.zeros((RATE, 2)), RATE)
    assert not read(path).any()


def test_a_sample_that_is_not_finite_is_refused_with_its_time(tmp_path):
    samples = noise(2.0, RATE)
    samples[24_000] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav: a sample at 1\.50 s is NaN or infinite"):
        read(tmp_path / "a.wav")


def test_no_file_a_folder_text_no_samples_and_a_cut_file_are_refused(tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "whole.wav", noise(1.0, RATE), RATE)
    soundfile.write(tmp_path / "whole.flac", noise(1.0, RATE), RATE)
    for name, ending in (("cut", "wav"), ("cut", "flac")):
        whole = (tmp_path / f"whole.{ending}").read_bytes()
        (tmp_path / f"{name}.{ending}").write_bytes(whole[: len(whole) // 2])
    reasons = {
        "none.wav": "no such file", "": "a folder", "text.wav": "not an audio file", "empty.wav": "holds no samples",
        "cut.wav": "cut off", "cut.flac": "breaks off",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=reason):
            read(tmp_path / name)


def test_a_length_that_an_encoder_on_a_pipe_could_not_state_is_found_by_reading(tmp_path):
    samples = noise(0.5, RATE)
    soundfile.write(tmp_path / "a.flac", samples, RATE)
    flac = bytearray((tmp_path / "a.flac").read_bytes())
    flac[21] &= 0xF0  # of STREAMINFO's 36-bit number of samples
    flac[22:26] = bytes(4)
    (tmp_path / "piped.flac").write_bytes(flac)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="PCM_16")
    wav = bytearray((tmp_path / "a.wav").read_bytes())
    wav[4:8] = wav[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "piped.wav").write_bytes(wav)
    for ending in ("flac", "wav"):
        with open_recording(tmp_path / f"piped.{ending}", sample_rate=RATE, channel="mix") as recording:
            assert np.array_equal(np.concatenate(list(recording.samples())), read(tmp_path / f"a.{ending}"))
            assert recording.seconds == 0.5


def test_samples_without_a_header_are_read_as_told(tmp_path):
    samples = np.arange(-3000, 3000, dtype="<i2")
    (tmp_path / "raw").write_bytes(samples.tobytes())
    assert np.array_equal(read(tmp_path / "raw", raw=RawFormat(RATE)), samples.astype(np.float32) / 32768)
