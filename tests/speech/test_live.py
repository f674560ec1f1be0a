"""Recordings as they come: the samples of `read_audio`, and what is wrong with a pipe."""

import io
import struct

import numpy as np
import pytest
import soundfile

from dsrun.errors import DataError
from dsrun.speech import AudioSettings, read_audio
from dsrun.speech.live import LiveSamples, live_file, live_pipe

SETTINGS = AudioSettings(16_000)
CLIP = np.random.default_rng(0).uniform(-0.9, 0.9, 5003).astype(np.float32)


class Trickle:
    """A pipe that gives a few bytes at a time, never as many as asked for."""

    def __init__(self, content: bytes, most: int = 7):
        self.stream, self.most = io.BytesIO(content), most

    def read1(self, size: int = -1, /) -> bytes:
        return self.stream.read(min(size, self.most))


def wav(subtype="PCM_16", clip=CLIP, rate=16_000, format="WAV"):
    buffer = io.BytesIO()
    soundfile.write(buffer, clip, rate, subtype=subtype, format=format)
    return buffer.getvalue()


def piped(content, settings=SETTINGS, *, raw_rate=None, most=7):
    audio = live_pipe(Trickle(content, most), name="standard input", raw_rate=raw_rate, block_seconds=0.1)
    return np.concatenate([np.zeros(0, np.float32), *LiveSamples(audio, settings)])


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("format", ["WAV", "WAVEX"])
def test_a_wav_from_a_pipe_has_the_samples_of_the_file(subtype, format, tmp_path):
    content = wav(subtype, format=format)
    (tmp_path / "clip.wav").write_bytes(content)
    np.testing.assert_array_equal(piped(content), read_audio(tmp_path / "clip.wav", SETTINGS))


@pytest.mark.parametrize("rate", [8000, 44_100])
@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_a_file_in_blocks_resampled_has_the_samples_of_the_whole(kind, rate, tmp_path):
    path, settings = tmp_path / f"clip.{kind}", AudioSettings(16_000, resample=True, channel=1)
    soundfile.write(path, np.stack([CLIP, CLIP[::-1]], axis=1), rate)
    samples = LiveSamples(live_file(path, block_seconds=0.013), settings)
    np.testing.assert_array_equal(np.concatenate(list(samples)), read_audio(path, settings))
    assert 0 < samples.held_back < 0.2


def test_bare_samples_are_16_bits_little_endian_and_come_as_soon_as_they_are_whole():
    content = struct.pack("<5h", 0, 1, -1, 32767, -32768)
    expected = np.float32([0, 1, -1, 32767, -32768]) / np.float32(32768)
    np.testing.assert_array_equal(piped(content, raw_rate=16_000, most=3), expected)
    blocks = live_pipe(Trickle(content, 3), name="-", raw_rate=16_000, block_seconds=1.0).blocks
    assert next(blocks).shape == (1, 1)  # three bytes: a sample and a half


@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_header_that_does_not_know_its_length_means_until_the_end(size):
    content = bytearray(wav())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    np.testing.assert_array_equal(piped(bytes(content)), piped(wav()))


def test_chunks_before_and_behind_the_samples_are_no_samples():
    content = wav()
    at = content.index(b"data")
    before = content[:at] + b"LIST" + struct.pack("<I", 5) + b"notes\0" + content[at:]
    np.testing.assert_array_equal(piped(before + b"LIST" + struct.pack("<I", 2) + b"ab"), piped(content))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"fLaC" + bytes(100), "not a WAV.*--raw-rate.*ffmpeg"),
        (wav()[:30], "ends within the WAV's header"),
        (wav()[:-2], "breaks off: its header promises 2 bytes more"),
        (wav("ULAW"), "WAV format 7 of 8 bits"),
        (b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\x0f", "268435455 bytes of"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "without a format"),
        (wav(rate=8000), "8000 Hz, the config says 16000"),
        (wav(clip=np.zeros((9, 2))), "2 channels, the config says mono"),
        (wav("FLOAT", clip=np.float32([0, np.nan, np.inf])), "2 samples of a block are NaN or infinite"),
    ],
    # A float WAV has the time of its writing: no name that two workers agree on.
    ids=["nothing", "flac", "cut header", "cut samples", "ulaw", "huge format", "no format", "rate", "channels", "NaN"],
)
def test_what_is_wrong_with_a_pipe_is_one_message_that_names_it(content, says):
    with pytest.raises(DataError, match=f"standard input: .*{says}"):
        piped(content, most=1 << 20)


def test_bare_samples_that_end_within_one_are_an_error():
    with pytest.raises(DataError, match="ends within a sample: 1 bytes of 2"):
        piped(b"\0\0\0", raw_rate=16_000)


def test_a_file_that_is_missing_or_cut_off_is_refused_before_its_first_block(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        live_file(tmp_path / "none.wav", block_seconds=0.1)
    (tmp_path / "cut.wav").write_bytes(wav()[:-100])
    with pytest.raises(DataError, match="cut off"):
        live_file(tmp_path / "cut.wav", block_seconds=0.1)
