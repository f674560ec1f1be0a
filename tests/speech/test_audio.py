"""Audio files: what is read, to the sample, and every way in which a file can be wrong."""

import hashlib
import struct
import tarfile
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from dsrun.errors import DataError
from dsrun.speech import (
    AudioSettings,
    TarMember,
    Utterance,
    audio,
    file_digest,
    read_audio,
    read_utterance,
    utterance_digest,
)
from dsrun.speech.audio import read_extent, read_header

RATE = 16_000
STRICT = AudioSettings(RATE)


def noise(seconds=1.0, rate=RATE, channels=1, seed=0):
    shape = (round(seconds * rate), channels) if channels > 1 else round(seconds * rate)
    return np.clip(np.random.default_rng(seed).normal(0, 0.1, shape), -1, 1).astype(np.float32)


def sine(frequency, rate, seconds=1.0):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path, samples, rate=RATE, **options):
    soundfile.write(path, samples, rate, **options)
    return path


def refusal(path, settings=STRICT, **options) -> str:
    with pytest.raises(DataError) as error:
        read_audio(path, settings, **options)
    assert str(path) in str(error.value)
    assert error.value.exit_code == 3
    return str(error.value)


@pytest.mark.parametrize(
    ("ending", "subtype", "step"),
    [
        ("wav", "FLOAT", 0),
        ("wav", "PCM_16", 2**-15),
        ("wav", "PCM_24", 2**-23),
        ("flac", "PCM_16", 2**-15),
        ("aiff", "PCM_16", 2**-15),
    ],
)
def test_lossless_files_give_the_samples_to_one_quantisation_step(tmp_path, ending, subtype, step):
    samples = noise()
    read = read_audio(write(tmp_path / f"a.{ending}", samples, subtype=subtype), STRICT)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, samples, rtol=0, atol=step)


@pytest.mark.parametrize(("subtype", "seconds"), [("VORBIS", 1.2345), ("OPUS", 1.2345)])
def test_ogg_files_give_every_sample_count(tmp_path, subtype, seconds):
    path = write(tmp_path / "a.ogg", sine(440, RATE, seconds), format="OGG", subtype=subtype)
    assert len(read_audio(path, STRICT)) == round(seconds * RATE)


def test_a_part_is_the_same_samples_as_a_slice(tmp_path):
    path = write(tmp_path / "a.flac", noise(3))
    whole = read_audio(path, STRICT)
    part = read_audio(path, STRICT, offset=0.5, duration=1.25, is_part=True)
    np.testing.assert_array_equal(part, whole[8000:28000])


def test_a_part_that_ends_behind_the_file_is_refused(tmp_path):
    path = write(tmp_path / "a.wav", noise(3))
    assert "part ends at 4.50 s, the file at 3.00" in refusal(path, offset=2.5, duration=2.0, is_part=True)
    assert "part ends at 9.00 s" in refusal(path, offset=8.0, duration=1.0, is_part=True)
    assert len(read_audio(path, STRICT, offset=2.5, duration=0.55, is_part=True)) == 8000  # within rounding


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert refusal(tmp_path / "none.wav").endswith("none.wav: no such file.")
    (tmp_path / "folder.wav").mkdir()
    assert refusal(tmp_path / "folder.wav").endswith("folder.wav: a folder, not an audio file.")
    with pytest.raises(DataError, match="no such file"):
        file_digest(tmp_path / "none.wav")
    with pytest.raises(DataError, match="a folder"):
        file_digest(tmp_path / "folder.wav")


@pytest.mark.parametrize(
    "content", [b"", b"this is text, not audio\n" * 50, b"RIFF\x00\x00\x00\x00WAVE", b"\x00" * 4096]
)
@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg", "x.mp3", "x.raw", "x"])
def test_what_is_no_audio_is_refused_whatever_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    if not content:
        assert message.endswith(f"{name}: is empty (0 bytes).")
    else:
        assert "not an audio file that can be read" in message or "cut off" in message or "holds no samples" in message


def test_a_file_without_samples_is_refused(tmp_path):
    assert refusal(write(tmp_path / "a.wav", noise(0))).endswith("holds no samples.")
    assert refusal(write(tmp_path / "a.aiff", noise(0))).endswith("holds no samples.")


@pytest.mark.parametrize("share", [0.98, 0.5, 0.05])
@pytest.mark.parametrize("ending", ["wav", "flac", "aiff", "ogg", "opus", "mp3"])
def test_a_file_cut_off_anywhere_is_refused_even_without_a_known_duration(tmp_path, ending, share):
    options = {"opus": {"format": "OGG", "subtype": "OPUS"}}.get(ending, {})
    path = write(tmp_path / f"a.{ending}", noise(3), **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    message = refusal(path)
    assert any(text in message for text in ("cut off", "breaks off", "not an audio file that can be read"))


def test_libsndfile_alone_reads_a_cut_wav_as_a_shorter_clip(tmp_path):
    # Why the container's size is compared with the file's. If this fails, libsndfile has learnt to complain.
    path = write(tmp_path / "a.wav", noise(3))
    path.write_bytes(path.read_bytes()[:48_000])
    assert len(soundfile.read(path)[0]) < 3 * RATE


def test_an_ogg_file_cut_at_a_page_boundary_is_refused(tmp_path):
    path = write(tmp_path / "a.ogg", noise(10))
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"OggS")])
    assert "last page of the Ogg stream is missing" in refusal(path)


def test_a_wav_written_to_a_pipe_is_read_whole(tmp_path):
    # ffmpeg and sox cannot seek back to write the length and leave the largest number.
    path = write(tmp_path / "a.wav", noise(), subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(read_audio(path, STRICT)) == RATE


@pytest.mark.parametrize(
    ("stated", "says"), [(0, "does not state its length"), (2**36 - 1, "longer than data.max_seconds")]
)
def test_a_flac_that_states_no_length_or_an_absurd_one_is_refused_before_memory_is_taken(tmp_path, stated, says):
    path = write(tmp_path / "a.flac", noise())
    data = bytearray(path.read_bytes())
    # STREAMINFO: 20 bits of rate, 3 of channels, 5 of bits a sample, 36 of number of samples.
    field = int.from_bytes(data[18:26], "big")
    data[18:26] = (field >> 36 << 36 | stated).to_bytes(8, "big")
    path.write_bytes(data)
    assert says in refusal(path)


def test_a_longer_clip_than_the_limit_is_refused(tmp_path):
    path = write(tmp_path / "a.wav", noise(3))
    assert "3.0 s, longer than data.max_seconds (2.5)" in refusal(path, AudioSettings(RATE, max_seconds=2.5))
    part = read_audio(path, AudioSettings(RATE, max_seconds=2.5), offset=1.0, duration=2.0, is_part=True)
    assert len(part) == 2 * RATE


def test_of_many_channels_no_more_is_in_memory_than_the_one_and_a_block(tmp_path):
    path = write(tmp_path / "a.flac", np.zeros((2_000_000, 8), np.int16))
    tracemalloc.start()
    samples = read_audio(path, AudioSettings(RATE, channel=7))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(samples) == 2_000_000
    assert peak < 1.5 * samples.nbytes + 4 * audio.BLOCK


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_a_channel_read_in_blocks_has_the_samples_of_one_read_of_all(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", noise(10, channels=2))
    with soundfile.SoundFile(path) as file:  # soundfile.read seeks first, and then MP3 has other last bits
        expected = file.read(dtype="float32")[:, 1]
    np.testing.assert_array_equal(read_audio(path, AudioSettings(RATE, channel=1)), expected)


@pytest.mark.parametrize(("file_rate", "rate"), [(655_350, RATE), (8000, 48_000)])
def test_more_samples_than_a_clip_may_have_are_refused_before_memory_is_taken_whatever_the_rate(
    tmp_path, monkeypatch, file_rate, rate
):
    path = write(tmp_path / "a.flac", noise(2, 8000), rate=file_rate)
    settings = AudioSettings(rate, resample=True)
    most = len(read_audio(path, settings))
    monkeypatch.setattr(audio, "MOST_SAMPLES", max(most, 16_000) - 1)
    assert "samples; a clip may have" in refusal(path, settings)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_counted(tmp_path, value):
    samples = noise()
    samples[[5, 700]] = value
    assert "2 samples are NaN or infinite" in refusal(write(tmp_path / "a.wav", samples, subtype="FLOAT"))


def test_another_channels_nan_does_not_matter(tmp_path):
    samples = noise(channels=2)
    samples[:, 1] = np.nan
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, AudioSettings(RATE, channel=0)), samples[:, 0])


def test_a_duration_that_disagrees_is_refused_beyond_a_tenth_of_a_second(tmp_path):
    path = write(tmp_path / "a.wav", noise(2))
    assert "lasts 2.00 s, the manifest says 2.20" in refusal(path, duration=2.2)
    assert "lasts 2.00 s, the manifest says 1.80" in refusal(path, duration=1.8)
    assert len(read_audio(path, STRICT, duration=2.09)) == 2 * RATE


def test_another_rate_is_refused_with_the_way_out(tmp_path):
    message = refusal(write(tmp_path / "a.wav", noise(rate=44_100), 44_100))
    assert "44100 Hz, the config says 16000" in message
    assert "data.resample: true" in message


def test_stereo_at_another_rate_gets_both_problems_in_one_message(tmp_path):
    message = refusal(write(tmp_path / "a.wav", noise(rate=44_100, channels=2), 44_100))
    assert "44100 Hz" in message
    assert "2 channels, the config says mono (name one, 0 to 1: data.channel, or --channel" in message


def test_a_named_channel_is_taken_and_a_missing_one_refused(tmp_path):
    samples = noise(channels=3)
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    for channel in range(3):
        np.testing.assert_array_equal(read_audio(path, AudioSettings(RATE, channel=channel)), samples[:, channel])
    assert "3 channels, so there is no channel 3" in refusal(path, AudioSettings(RATE, channel=3))


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_resampling_keeps_a_tone_and_the_duration(tmp_path, rate):
    path = write(tmp_path / "a.wav", sine(1_000, rate), rate, subtype="FLOAT")
    read = read_audio(path, AudioSettings(RATE, resample=True))
    assert abs(len(read) - RATE) <= 1
    # Away from the ends, where the filter runs in and out. 2e-6 is 16 ulps of float32 around 1; 4e-7 was measured.
    middle, ideal = read[2_000:14_000], sine(1_000, RATE)[2_000:14_000]
    np.testing.assert_allclose(middle, ideal, rtol=0, atol=2e-6)


def test_a_tone_above_the_new_band_vanishes(tmp_path):
    path = write(tmp_path / "a.wav", sine(9_000, 44_100), 44_100, subtype="FLOAT")
    read = read_audio(path, AudioSettings(RATE, resample=True))
    # The tone is at 0.5 and would fold to 7 kHz; 1.2e-7 of it was measured, which is float32's own noise.
    assert np.abs(read[2_000:14_000]).max() < 1e-6


def test_resampling_is_not_used_where_the_rate_fits(tmp_path):
    path = write(tmp_path / "a.wav", noise(), subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, AudioSettings(RATE, resample=True)), read_audio(path, STRICT))


def test_the_key_tells_settings_apart_that_give_other_samples():
    variants = [STRICT, AudioSettings(8_000), AudioSettings(RATE, resample=True), AudioSettings(RATE, channel=0)]
    assert len({settings.key() for settings in variants}) == len(variants)


def test_the_digest_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_header_with_absurd_channels_is_refused_not_crashed_on(tmp_path):
    header = b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 65_535, RATE, 0, 0, 16)
    (tmp_path / "a.wav").write_bytes(header + b"data" + struct.pack("<I", 0))
    refusal(tmp_path / "a.wav")


def in_a_tar(folder, path, name="clip") -> Utterance:
    """A tar of some text and that file, without its ending, and the utterance of the latter."""
    (folder / "before.txt").write_text("something else\n" * 100)
    with tarfile.open(folder / "shard.tar", "w") as tar:
        tar.add(folder / "before.txt", "before.txt")
        tar.add(path, name)
        tar.add(folder / "before.txt", "after.txt")
    with tarfile.open(folder / "shard.tar") as tar:
        info = tar.getmember(name)
    member = TarMember(info.offset_data, info.size)
    return Utterance(id="a", audio=folder / "shard.tar", duration=None, text="", member=member)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_a_recording_in_a_tar_has_the_same_samples_and_digest_as_the_file_of_its_own(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", noise(2))
    utterance = in_a_tar(tmp_path, path)
    np.testing.assert_array_equal(read_utterance(utterance, STRICT), read_audio(path, STRICT))
    assert utterance_digest(utterance) == hashlib.sha256(path.read_bytes()).hexdigest() == file_digest(path)


def test_a_part_of_a_recording_in_a_tar_is_the_same_samples_as_a_slice(tmp_path):
    utterance = in_a_tar(tmp_path, write(tmp_path / "a.flac", noise(3)))
    part = replace(utterance, offset=0.5, duration=1.25, is_part=True)
    np.testing.assert_array_equal(read_utterance(part, STRICT), read_utterance(utterance, STRICT)[8000:28000])


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_a_recording_cut_off_before_it_came_into_a_tar_is_refused(tmp_path, ending):
    # Bytes follow it in the tar: reading on into the next header must not make the clip look whole.
    path = write(tmp_path / f"a.{ending}", noise(3))
    path.write_bytes(path.read_bytes()[:5000])
    utterance = in_a_tar(tmp_path, path)
    with pytest.raises(DataError, match=f"shard.tar@{utterance.member.offset}[+]5000: .*(cut off|breaks off)"):
        read_utterance(utterance, STRICT)


def test_a_members_header_is_read_without_the_rest_of_it(tmp_path):
    path = write(tmp_path / "a.wav", np.zeros(RATE * 100, np.int16))
    utterance = in_a_tar(tmp_path, path)
    tracemalloc.start()
    header, extent = read_header(utterance, STRICT), read_extent(utterance.audio, utterance.member)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert header.problem is None
    assert header.seconds == extent.seconds == 100
    assert peak < 400_000  # the member has 3.2 MB


def test_a_member_beyond_the_end_of_its_tar_and_one_of_an_absurd_size_are_refused(tmp_path):
    utterance = in_a_tar(tmp_path, write(tmp_path / "a.wav", noise(1)))
    size = utterance.audio.stat().st_size
    for offset, length in ((size - 100, 200), (size + 5, 1), (2**61, 10)):
        beyond = replace(utterance, member=TarMember(offset, length))
        with pytest.raises(DataError, match="the tar file ends at|Invalid argument|too large"):
            read_utterance(beyond, STRICT)
    with pytest.raises(DataError, match="more than 536870912 bytes"):
        read_utterance(replace(utterance, member=TarMember(0, 2**40)), STRICT)
    with pytest.raises(DataError, match="no such file"):
        read_utterance(replace(utterance, audio=tmp_path / "none.tar"), STRICT)


def test_a_recording_of_other_bytes_than_the_manifest_says_is_refused_even_a_part_of_it(tmp_path):
    path = write(tmp_path / "a.wav", noise(2))
    in_tar = in_a_tar(tmp_path, path)
    loose = replace(in_tar, audio=path, member=None)
    for utterance in (in_tar, loose, replace(loose, offset=0.5, duration=0.5, is_part=True)):
        right = replace(utterance, sha256=file_digest(path))
        np.testing.assert_array_equal(read_utterance(right, STRICT), read_utterance(utterance, STRICT))
        with pytest.raises(DataError, match="its sha256 is .*, the manifest says aaaa"):
            read_utterance(replace(utterance, sha256="a" * 64), STRICT)
