"""Audio: files to samples, and every way in which a file can be wrong.

Samples are float32 in [-1, 1], one channel, at the rate that the config names. Nothing is mended in silence: another rate is
resampled (soxr) only where the config says so, a channel of several is taken only where one is named, and a file that
libsndfile would read as a shorter clip without complaint (a WAV, AIFF or Ogg cut off in the middle) is refused. Sun AU, W64 and
headerless MP3 cut off in the middle are noticed only by the manifest's duration.

A recording is a file, or some bytes of a tar file: everything said above holds for them as if they were a file of their own. They are
read into memory only to be compared with a sha256.

A small file can hold much: 240 s of silence in 8 channels at 48 kHz are 93 KB of FLAC and 369 MB of float32. Decoding takes no more than
the one channel needs, and a clip of more than `MOST_SAMPLES` is refused before any of it is decoded.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile
from jaxtyping import Float32

from dsrun.errors import DataError
from dsrun.speech.manifest import LARGEST_MEMBER, TarMember, Utterance

Channel = Literal["mono"] | int
Content = Path | bytes | io.BufferedIOBase  # a recording: its file, its bytes, or a view of them

OGG_TAIL = 1 << 17  # bytes; a page has at most 65,307
MOST_SAMPLES = 1 << 28  # of one channel, before or after resampling: 1 GiB of float32, 93 minutes at 48 kHz
BLOCK = 1 << 18  # samples of all channels decoded at once, where there are several: 1 MiB of float32
UNKNOWN_LENGTH = 1 << 50  # what libsndfile says of a FLAC without a count is above, and no real file is
DURATION_TOLERANCE = 0.1  # seconds by which manifest and file may differ: containers round, lossy codecs pad


@dataclass(frozen=True)
class AudioSettings:
    """What a file must be like, or may be made like: rate (Hz), resampling allowed, channel, and the longest clip (s).

    `said_by` is for messages: where the rate stands, so that nobody looks for it in a config that there is not.
    """

    sample_rate: int
    resample: bool = False
    channel: Channel = "mono"
    max_seconds: float = 3600.0
    said_by: Literal["the config", "--sample-rate"] = "the config"

    def key(self) -> str:
        """Text that identifies what `read_audio` makes of a file."""
        return f"rate={self.sample_rate} resample={self.resample} channel={self.channel}"


def read_utterance(utterance: Utterance, settings: AudioSettings) -> Float32[np.ndarray, " sample"]:
    """Samples of an utterance's recording, wherever it lies. Raises DataError as `read_audio` does."""
    return read_audio(
        utterance.audio,
        settings,
        offset=utterance.offset,
        duration=utterance.duration,
        is_part=utterance.is_part,
        member=utterance.member,
        sha256=utterance.sha256,
    )


@dataclass(frozen=True)
class Header:
    """What a container says of an utterance, before anything is decoded: rate (Hz), channels, encoding, seconds of the utterance, and why
    `read_utterance` would refuse it already."""

    sample_rate: int
    channels: int
    encoding: str
    seconds: float
    problem: str | None


def read_header(utterance: Utterance, settings: AudioSettings) -> Header:
    """The header of an utterance's recording.

    Raises:
        DataError: missing, or not audio.
    """
    name = place_of(utterance.audio, utterance.member)
    problem, count = None, 0
    with _opened(utterance.audio, utterance.member, None) as (content, file):
        try:
            require_whole(name, content)
            require_rate_and_channel(name, file.samplerate, file.channels, settings)
            _, count = _range(name, file, settings, utterance.offset, utterance.duration, utterance.is_part)
        except DataError as error:
            problem = str(error)
        encoding = f"{file.format} {file.subtype}"
        return Header(file.samplerate, file.channels, encoding, count / file.samplerate, problem)


def utterance_digest(utterance: Utterance) -> str:
    """sha256 of the bytes of the recording that an utterance is in: a file's, or a tar member's."""
    return file_digest(utterance.audio, utterance.member)


def read_audio(
    path: Path,
    settings: AudioSettings,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    is_part: bool = False,
    member: TarMember | None = None,
    sha256: str | None = None,
) -> Float32[np.ndarray, " sample"]:
    """Samples of a file, or of a part of it.

    Args:
        path: WAV, FLAC, Ogg and whatever else libsndfile reads; with `member` the tar file that holds it.
        settings: required rate and channel.
        offset: seconds to skip.
        duration: what the manifest says, seconds. The part's length if `is_part`, otherwise checked against the file.
        member: which bytes of a tar file are the recording.
        sha256: of the recording's bytes; None compares nothing.

    Raises:
        DataError: missing, not audio, cut off, empty, too long, wrong rate or channel, NaN or infinite samples, other bytes than
            `sha256` is of, or a duration that disagrees by more than 0.1 s.
    """
    name = place_of(path, member)
    with _opened(path, member, sha256) as (content, file):
        rate = file.samplerate
        require_whole(name, content)
        require_rate_and_channel(name, rate, file.channels, settings)
        start, count = _range(name, file, settings, offset, duration, is_part)
        mono = _read(name, file, start, count, 0 if settings.channel == "mono" else settings.channel)
    if not np.isfinite(mono).all():
        raise DataError(f"{name}: {int((~np.isfinite(mono)).sum())} samples are NaN or infinite.")
    if rate != settings.sample_rate:
        import soxr

        mono = soxr.resample(mono, rate, settings.sample_rate)
    return np.ascontiguousarray(mono, np.float32)


@dataclass(frozen=True)
class Extent:
    """How much a recording holds: rate (Hz), channels, and samples of each."""

    sample_rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """Its length, the float nearest to it."""
        return self.frames / self.sample_rate


def read_extent(path: Path, member: TarMember | None = None) -> Extent:
    """How much a recording holds, by its header and whatever it must be like.

    Raises:
        DataError: missing, not audio, holds no samples or does not say how many, or a WAV, AIFF or Ogg cut off.
    """
    name = place_of(path, member)
    with _opened(path, member, None) as (content, file):
        require_whole(name, content)
        _require_length(name, file)
        return Extent(file.samplerate, file.channels, file.frames)


def file_digest(path: Path, member: TarMember | None = None) -> str:
    """sha256 of the file's bytes, or of a tar member's, hexadecimal."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device that a manifest names has no end
            raise DataError(f"{path}: a folder, a pipe or a device, not a file that can be read to its end.")
        if member is not None:
            return hashlib.sha256(_member_bytes(path, member)).hexdigest()
        with path.open("rb") as file:  # a language model may be larger than memory
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(no_file(path, error)) from None


def read_bytes(utterance: Utterance) -> bytes:
    """The bytes of the recording that an utterance is in, at most as many as a tar's member may have.

    Raises:
        DataError: missing, longer, or of another sha256 than the manifest says.
    """
    path, member = utterance.audio, utterance.member
    if not path.is_file():
        raise DataError(no_file(path, None))
    if not (size := path.stat().st_size):
        raise DataError(f"{path}: holds nothing.")
    content = _content(path, member or TarMember(0, size), utterance.sha256)
    assert isinstance(content, bytes)
    return content


def place_of(path: Path, member: TarMember | None) -> str:
    """What a message calls a recording: its path, and the bytes of a tar file."""
    return f"{path}" if member is None else f"{path}@{member.offset}+{member.size}"


def _content(path: Path, member: TarMember | None, sha256: str | None) -> Path | bytes:
    """The recording: a file that need not be in memory, or bytes."""
    if member is None and sha256 is None:
        return path
    content = path.read_bytes() if member is None else _member_bytes(path, member)
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(
            f"{place_of(path, member)}: its sha256 is {found}, the manifest says {sha256}. Changed since the manifest was written?"
        )
    return content


def _member_bytes(path: Path, member: TarMember) -> bytes:
    with _opened_tar(path, member) as tar:
        tar.seek(member.offset)
        return tar.read(member.size)


class Forwards(soundfile.SoundFile):
    """Only ever read on. soundfile seeks to where it is after every read: a FLAC without a length cannot, an MP3 then decodes a little
    otherwise, and both take time."""

    def seekable(self) -> bool:
        """No."""
        return False


class _Part(io.RawIOBase):
    """Bytes of an open file as a file of their own, which libsndfile takes for one; nothing is read that is not asked for."""

    def __init__(self, file: BinaryIO, member: TarMember):
        self._file, self._member, self._position = file, member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._member.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._member.size - self._position))
        content = os.pread(self._file.fileno(), count, self._member.offset + self._position)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


@contextmanager
def _opened(path: Path, member: TarMember | None, sha256: str | None) -> Iterator[tuple[Content, soundfile.SoundFile]]:
    if not os.path.isfile(path):  # unlike Path.is_file also of a name that is too long for a file
        raise DataError(no_file(path, None))
    name = place_of(path, member)
    if member is None or sha256 is not None:
        content = _content(path, member, sha256)
        with open_decoder(name, content, Forwards) as file:
            yield content, file
        return
    with (
        _opened_tar(path, member) as tar,
        io.BufferedReader(_Part(tar, member)) as part,
        open_decoder(name, part, Forwards) as file,
    ):
        yield part, file


@contextmanager
def _opened_tar(path: Path, member: TarMember) -> Iterator[BinaryIO]:
    """A tar file that has all of a member, which is none too large."""
    if member.size > LARGEST_MEMBER:
        raise DataError(
            f"{place_of(path, member)}: more than {LARGEST_MEMBER} bytes. Keep so long a recording in a file."
        )
    try:
        tar = path.open("rb")
    except OSError as error:
        raise DataError(no_file(path, error)) from None
    with tar:
        if (size := os.fstat(tar.fileno()).st_size) < member.offset + member.size:
            raise DataError(f"{place_of(path, member)}: the tar file ends at {size}. Is it cut off?")
        yield tar


def open_decoder(
    name: str, content: Content, kind: type[soundfile.SoundFile] = soundfile.SoundFile
) -> soundfile.SoundFile:
    """libsndfile's view of a file or of its bytes. Raises DataError for what it does not read."""
    try:
        return kind(
            io.BytesIO(content)
            if isinstance(content, bytes)
            else str(content)
            if isinstance(content, Path)
            else content
        )
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        if not _size(content):
            raise DataError(f"{name}: is empty (0 bytes).") from None
        reason = getattr(error, "error_string", str(error))
        raise DataError(f"{name}: not an audio file that can be read ({reason.rstrip('.')}).") from None


def _size(content: Content) -> int:
    with _stream(content) as file:
        return file.seek(0, io.SEEK_END)


def no_file(path: Path, error: OSError | None) -> str:
    """Why there is nothing to read, in words."""
    if os.path.isdir(path):
        return f"{path}: a folder, not an audio file."
    if error is None or isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{path}: no such file."
    return f"{path}: {error.strerror}."


def _range(
    name: str, file: soundfile.SoundFile, settings: AudioSettings, offset: float, duration: float | None, is_part: bool
) -> tuple[int, int]:
    """First sample and number of samples to read."""
    _require_length(name, file)
    seconds = file.frames / file.samplerate
    length = duration if is_part and duration is not None else seconds - offset
    if length <= 0:
        raise DataError(f"{name}: holds no samples{f' behind {offset:g} s' if offset else ''}.")
    if offset + length > seconds + DURATION_TOLERANCE:
        raise DataError(f"{name}: the manifest's part ends at {offset + length:.2f} s, the file at {seconds:.2f}.")
    if length > settings.max_seconds:
        raise DataError(
            f"{name}: {length:.1f} s, longer than data.max_seconds ({settings.max_seconds:g}). Cut it or raise the limit."
        )
    rate = max(file.samplerate, settings.sample_rate)
    if length * rate > MOST_SAMPLES:
        raise DataError(
            f"{name}: {length:.1f} s at {rate} Hz are {length * rate:.0f} samples; a clip may have {MOST_SAMPLES}. Cut it"
            f"{', or convert it to ' + str(settings.sample_rate) + ' Hz' if rate > settings.sample_rate else ''}."
        )
    if not is_part and duration is not None and abs(duration - seconds) > DURATION_TOLERANCE:
        raise DataError(
            f"{name}: lasts {seconds:.2f} s, the manifest says {duration:.2f}. Is the file cut off, or the line wrong?"
        )
    start = min(round(offset * file.samplerate), file.frames - 1)
    return start, min(max(1, round(length * file.samplerate)), file.frames - start)


def _require_length(name: str, file: soundfile.SoundFile) -> None:
    if file.frames >= UNKNOWN_LENGTH:
        raise DataError(f"{name}: does not state its length (encoded from a pipe?). Encode it again from a file.")
    if file.frames == 0:
        raise DataError(f"{name}: holds no samples.")


def _read(name: str, file: soundfile.SoundFile, start: int, count: int, channel: int) -> Float32[np.ndarray, " sample"]:
    """One channel; of several no more than a block at a time is in memory."""
    mono, done = np.empty(count, np.float32), 0
    block = max(1, BLOCK // file.channels)
    try:
        if start:
            file.seek(start)
        if file.channels == 1:
            done = len(file.read(out=mono))
        while file.channels > 1 and done < count:
            piece = file.read(min(block, count - done), dtype="float32", always_2d=True)
            if not len(piece):
                break
            mono[done : done + len(piece)] = piece[:, channel]
            done += len(piece)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{name}: breaks off while being decoded ({error}).") from None
    # Codecs may know their length less exactly than they tell: one hop of 10 ms is forgiven, a missing tail is not.
    if count - done > file.samplerate // 100:
        raise DataError(f"{name}: breaks off: {done} samples of {count} could be read.")
    return mono[:done]


def require_rate_and_channel(name: str, rate: int, channels: int, settings: AudioSettings) -> None:
    """Raises DataError for a rate or a number of channels that the settings do not allow."""
    problems, is_config = [], settings.said_by == "the config"
    if rate != settings.sample_rate and not settings.resample:
        way_out = "allow resampling: data.resample: true" if is_config else f"write --sample-rate {rate}"
        problems.append(f"{rate} Hz, {settings.said_by} says {settings.sample_rate} (convert it, or {way_out})")
    if settings.channel == "mono" and channels != 1:
        way_out = "data.channel, or --channel of transcribe" if is_config else "data.channel of a --config"
        problems.append(
            f"{channels} channels, {'the config says mono' if is_config else 'where one is wanted'} "
            f"(name one, 0 to {channels - 1}: {way_out}; or mix it down)"
        )
    elif settings.channel != "mono" and settings.channel >= channels:
        problems.append(
            f"{channels} channels, so there is no channel {settings.channel} (data.channel; the first is 0)"
        )
    if problems:
        raise DataError(f"{name}: " + "; ".join(problems) + ".")


def require_whole(name: str, content: Content) -> None:
    """Compare what the container says with the file; libsndfile reads a cut one as a shorter clip without an error."""
    with _stream(content) as file:
        file.seek(0)
        header = file.read(12)
        actual = file.seek(0, io.SEEK_END)
        if header[:4] == b"OggS":
            file.seek(max(0, actual - OGG_TAIL))
            _require_last_ogg_page(name, file.read())
            return
    order = {(b"RIFF", b"WAVE"): "little", (b"FORM", b"AIFF"): "big", (b"FORM", b"AIFC"): "big"}
    byte_order = order.get((header[:4], header[8:12]))
    if byte_order is None:
        return
    stated = int.from_bytes(header[4:8], byte_order) + 8  # type: ignore[arg-type]
    is_streamed = stated >= 0xFFFF_FF00  # writers that cannot seek back put the largest size
    if stated > actual + 1 and not is_streamed:
        raise DataError(f"{name}: cut off: the header says {stated} bytes, the file has {actual}.")


@contextmanager
def _stream(content: Content) -> Iterator[BinaryIO | io.BufferedIOBase]:
    """To be read; of what the decoder reads too, the position is kept."""
    if isinstance(content, io.BufferedIOBase):
        position = content.tell()
        try:
            yield content
        finally:
            content.seek(position)
        return
    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as stream:
        yield stream


def _require_last_ogg_page(name: str, tail: bytes) -> None:
    """RFC 3533: the last page of a stream has the flag 4 in its sixth byte; a page is 27 bytes, lengths, segments."""
    start = tail.rfind(b"OggS")
    page = tail[start:] if start >= 0 else b""
    if len(page) < 27 or not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        raise DataError(f"{name}: cut off: the last page of the Ogg stream is missing.")
