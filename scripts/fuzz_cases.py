"""Cases for `fuzz.py`: for each kind of input valid examples, a mutation, and the functions and commands that read it.

`KINDS[name](rng, folder)` writes a mutated input into the folder and returns what is to be called. Examples are made once a process.
"""

import gzip
import io
import json
import random
import sys
import tarfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from fuzz_mutations import WORDS, mutated_bytes, mutated_text

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

Call = Callable[[], object]
RATE = 16_000
AUDIO = {
    "wav": ("WAV", "PCM_16"), "wav24": ("WAV", "PCM_24"), "wavf": ("WAV", "FLOAT"), "wavex": ("WAVEX", "PCM_16"),
    "adpcm": ("WAV", "IMA_ADPCM"), "w64": ("W64", "PCM_16"), "rf64": ("RF64", "PCM_16"), "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III"), "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"), "sph": ("NIST", "PCM_16"), "caf": ("CAF", "ALAC_16"),
}  # fmt: skip


@cache
def clip(kind: str, channels: int = 1) -> bytes:
    """A second of tone and noise in a format."""
    rng, buffer = np.random.default_rng(1), io.BytesIO()
    samples = 0.3 * np.sin(np.arange(RATE) / 5) + 0.01 * rng.standard_normal(RATE)
    format, subtype = AUDIO[kind]
    soundfile.write(buffer, np.repeat(samples[:, None], channels, axis=1), RATE, format=format, subtype=subtype)
    return buffer.getvalue()


@cache
def silence(hours: int, channels: int = 1, rate: int = RATE) -> bytes:
    """A FLAC of hours' worth of silent samples (at `RATE`): some hundred kilobytes that would be gigabytes of samples."""
    buffer, minute = io.BytesIO(), np.zeros((60 * RATE, channels), np.int16)
    with soundfile.SoundFile(buffer, "w", rate, channels, format="FLAC", subtype="PCM_16") as file:
        for _ in range(60 * hours):
            file.write(minute)
    return buffer.getvalue()


BOMBS = ((1, 1, RATE), (12, 1, RATE), (1, 8, 48_000), (2, 1, 655_350))  # hours, channels, rate: made before any case


@cache
def gzip_bomb(text: bytes) -> bytes:
    """200 MiB of a text in some hundred kilobytes."""
    return gzip.compress(text * ((200 << 20) // len(text)), 1, mtime=0)


def audio(rng: random.Random, folder: Path) -> Call:
    """Damaged recordings."""
    kind = rng.choice(list(AUDIO))
    content = mutated_bytes(rng, clip(kind, rng.choice((1, 1, 2))), clip(rng.choice(list(AUDIO))))
    return _reads(rng, _written(folder / f"clip.{kind}", content))


def bomb(rng: random.Random, folder: Path) -> Call:
    """Recordings of hours in little space, of one channel or several and at any rate, whole or with a header that lies about it."""
    content = silence(*rng.choice(BOMBS))
    return _reads(rng, _written(folder / "clip.flac", mutated_bytes(rng, content) if rng.random() < 0.7 else content))


def recording(rng: random.Random, folder: Path) -> Call:
    """Damaged recordings as `transcribe` reads them: forwards in pieces, as a file that is followed, and from a pipe."""
    kind = rng.choice(list(AUDIO))
    content = mutated_bytes(rng, clip(kind, rng.choice((1, 2))), clip(rng.choice(list(AUDIO))))
    path, way = _written(folder / f"clip.{kind}", content), rng.choice(("pieces", "followed", "pipe", "raw"))
    from dsrun.speech.live import live_file, live_pipe
    from dsrun.speech.recording import open_recording

    def call() -> None:
        if way == "pieces":
            with open_recording(path, sample_rate=8000, channel=rng.choice(("mix", 0, 1))) as opened:
                assert sum(len(piece) for piece in opened.samples()), "no samples and no word about it"
        elif way == "followed":
            sum(len(block) for block in live_file(path, block_seconds=0.1).blocks)
        else:
            with path.open("rb") as pipe:
                rate = RATE if way == "raw" else None
                sum(len(block) for block in live_pipe(pipe, name="-", raw_rate=rate, block_seconds=0.1).blocks)

    return call


def lexicon(rng: random.Random, folder: Path) -> Call:
    """Damaged lexicons."""
    path = _written(folder / "words.txt", mutated_text(rng, "hello\nworld w o r l d |\nit's\n\nGood-bye\n"))
    normalizer = rng.choice(("nfkc_lower", "english", "as_is"))
    from dsrun.ctc.lexicon import read_lexicon
    from dsrun.speech import Alphabet

    return lambda: read_lexicon(path, Alphabet(tuple(" '-abcdefghijklmnopqrstuvwxyz"), normalizer))


def _reads(rng: random.Random, path: Path) -> Call:
    from dsrun.speech import AudioSettings, FeatureSettings, file_digest, read_audio

    settings = AudioSettings(
        rng.choice((RATE, RATE, 8000)), rng.random() < 0.5, rng.choice(("mono", 0, 1)), rng.choice((20.0, 3600.0))
    )
    parts = rng.choice(
        (
            {},
            {"duration": 1.0},
            {"offset": 0.3, "duration": 0.5, "is_part": True},
            {"offset": 7000.0, "duration": 1.0, "is_part": True},
        )
    )

    def call() -> None:
        file_digest(path)
        samples = read_audio(path, settings, **parts)
        features = FeatureSettings("log_spectrogram", settings.sample_rate)
        if features.num_frames(len(samples)):
            assert np.isfinite(features.compute(samples)).all(), "features that are not finite"

    return call


def manifest(rng: random.Random, folder: Path) -> Call:
    """Damaged manifests, read whole, as a command reads them, and each recording that they name."""
    _written(folder / "a.wav", clip("wav"))
    _written(folder / "clips.tar", _tar(rng, damaged=False))
    rows = [
        {"audio_filepath": "a.wav", "duration": 1.0, "text": "hello world", "id": "a", "speaker": "s"},
        {"audio_filepath": "a.wav", "duration": 0.5, "offset": 0.25, "text": "it's", "lang": {"x": [1, None]}},
        {
            "audio_filepath": "clips.tar",
            "duration": 1.0,
            "text": "in a tar",
            "tar_offset": 512,
            "tar_size": len(clip("flac")),
        },
    ]
    path = _written(folder / "list.jsonl", mutated_text(rng, "".join(json.dumps(row) + "\n" for row in rows)))
    if rng.random() < 0.2:
        return _command("data", "check", str(path), "--json")
    from dsrun.errors import DsrunError
    from dsrun.speech import AudioSettings, check_manifest, open_manifest, read_manifest

    def ids(read: Callable[[Path], Sequence]) -> list[str] | None:
        try:
            return [utterance.id for utterance in read(path)]
        except DsrunError:
            return None

    def call() -> None:
        assert ids(open_manifest) == ids(read_manifest), "two readers of one manifest that disagree"
        check_manifest(read_manifest(path), audio=AudioSettings(RATE))

    return call


def config(rng: random.Random, folder: Path) -> Call:
    """Damaged configs and --set, as far as building goes without training."""
    source = rng.choice(sorted((REPOSITORY / "configs").glob("*.yaml")))
    text = source.read_text(encoding="utf-8").replace("base: ", f"base: {source.parent}/")
    path = _written(folder / "config.yaml", mutated_text(rng, text))
    sets = [f"{rng.choice(('seed', 'model.hidden', 'arithmetic.storage', 'x.y', ''))}={rng.choice(WORDS)}"]
    sets = sets if rng.random() < 0.3 else []
    if rng.random() < 0.1:
        return _command("configs", "show", str(path), "--json")
    from dsrun import build
    from dsrun.config import load_config, render_origins, to_yaml

    def call() -> None:
        resolved = load_config(path, sets)
        found = resolved.config
        render_origins(resolved), to_yaml(found)
        for make in (
            build.build_policy,
            build.build_features,
            build.build_audio,
            build.build_augmentation,
            build.build_loss_scale,
            build.build_loop_settings,
        ):
            make(found)
        build.build_optimizer(found, steps_per_epoch=3)
        build.build_model_settings(found, num_classes=5)

    return call


ARPA = """\\data\\
ngram 1=5
ngram 2=5
ngram 3=1

\\1-grams:
-99\t<s>\t-0.3
-1.2\t</s>
-2.5\t<unk>
-0.9\thello\t-0.25
-1.1\tworld\t-0.2

\\2-grams:
-0.4\t<s> hello\t-0.1
-0.5\thello world\t-0.1
-0.6\tworld </s>
-1.6\thello hello
-1.7\tworld hello

\\3-grams:
-0.2\t<s> hello world

\\end\\
"""


def arpa(rng: random.Random, folder: Path) -> Call:
    """Damaged language models, plain and gzipped, and gzip bombs."""
    content = mutated_text(rng, ARPA)
    if rng.random() < 0.2:
        content = gzip.compress(content, 1, mtime=0)
        content = mutated_bytes(rng, content, content) if rng.random() < 0.5 else content
    elif rng.random() < 0.03:
        content = gzip_bomb(rng.choice((b"\0", b"\n", b"-1\ta\n", b"x")))
    path = _written(folder / "model.arpa", content)
    from dsrun.ctc.arpa import read_arpa

    def call() -> None:
        model = read_arpa(path)
        score = model.score_sentence(["hello", "world", "other", "hello"])
        assert score.log_prob == score.log_prob, "a probability that is not a number"

    return call


def alphabet(rng: random.Random, folder: Path) -> Call:
    """Damaged alphabets, and texts of every sort in them."""
    text = "# an alphabet\n \n'\n\\#\n" + "\n".join("abcdefghijklmnopqrstuvwxyzéß李") + "\n"
    path = _written(folder / "alphabet.txt", mutated_text(rng, text))
    normalizer = rng.choice(("nfkc_lower", "english", "as_is"))
    texts = {str(n): rng.choice(WORDS) + rng.choice(("", " hello ", "don't 12", "3.5")) for n in range(5)}
    from dsrun.speech import Alphabet, encode_all

    def call() -> None:
        found = Alphabet.from_file(path, normalizer=normalizer)
        found.save(folder / "again.txt")
        assert Alphabet.from_file(folder / "again.txt", normalizer=normalizer) == found, "not what was saved"
        encode_all(texts, found, on_unknown=rng.choice(("error", "drop")))

    return call


def tar(rng: random.Random, folder: Path) -> Call:
    """Damaged and hostile tar shards: path tricks, lying sizes, links, devices, sparse members."""
    path = _written(folder / "clips.tar", _tar(rng, damaged=True))
    if rng.random() < 0.1:
        return _import("webdataset", folder, folder)
    from dsrun.speech import AudioSettings, TarMember, read_audio
    from dsrun.speech.tar_shards import list_members

    def call() -> None:
        for member in list_members(path):
            assert not member.name.startswith("/"), "an absolute name"
            assert ".." not in member.name.split("/"), "a name that leads out"
            if member.name.endswith((".flac", ".wav")):
                read_audio(path, AudioSettings(RATE), member=TarMember(member.offset, member.size))

    return call


def _tar(rng: random.Random, *, damaged: bool) -> bytes:
    buffer = io.BytesIO()
    format = (
        rng.choice((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)) if damaged else tarfile.USTAR_FORMAT
    )
    contents = {"0001.flac": clip("flac"), "0001.txt": b"hello\n", "0001.json": b'{"text": "a"}'}
    with tarfile.open(fileobj=buffer, mode="w", format=format) as file:
        for name, content in contents.items():
            if damaged and rng.random() < 0.3:
                name = rng.choice(("../" * 3, "/", "a/", "x" * 200 + "/", "é", "", "./")) + rng.choice(
                    (name, rng.choice(WORDS))
                )
            info = tarfile.TarInfo(name.replace("\0", "?").encode("utf-8", "replace").decode()[:5000])
            info.size = len(content)
            if damaged and rng.random() < 0.15:
                info.type = rng.choice(
                    (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
                )
                info.linkname, info.size = rng.choice(("/etc/passwd", "../x", "0001.flac")), 0
            try:
                file.addfile(info, io.BytesIO(content) if info.size else None)
            except ValueError:  # ustar has no room for the name
                continue
    content = buffer.getvalue()
    if not damaged or rng.random() < 0.3:
        return content
    return _with_checksums(mutated_bytes(rng, content, content)) if rng.random() < 0.7 else gzip.compress(content)


def _with_checksums(content: bytes) -> bytes:
    """Right checksums in the blocks where headers may stand, so that lies are read and not only noticed."""
    data = bytearray(content)
    for start in range(0, len(data) - 511, 512):
        if data[start + 257 : start + 262] == b"ustar":
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return bytes(data)


def importer(rng: random.Random, folder: Path) -> Call:
    """Corpora of every layout whose tables are damaged."""
    from tests.speech.corpora import FIXTURES, PLAIN

    kind = rng.choice([name for name in FIXTURES if name != "webdataset"])
    source = FIXTURES[kind](folder / "corpus", PLAIN)
    tables = [
        p
        for p in sorted(folder.rglob("*"))
        if p.suffix in (".txt", ".tsv", ".csv", ".json", ".stm", ".scp", "") and p.is_file()
    ]
    path = rng.choice(tables)
    path.write_bytes(mutated_text(rng, path.read_text(encoding="utf-8")))
    return _import(kind, source, folder)


def _import(kind: str, source: Path, folder: Path) -> Call:
    return _command("data", "import", kind, str(source), str(folder / "out"))


def _command(*arguments: str) -> Call:
    """A command of dsrun in this process; its mistakes come out as exceptions."""
    from typer.testing import CliRunner

    from dsrun.cli import app

    def call() -> None:
        result = CliRunner().invoke(app, list(arguments))
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception

    return call


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


KINDS: dict[str, Callable[[random.Random, Path], Call]] = {
    "audio": audio,
    "audio bomb": bomb,
    "recording": recording,
    "manifest": manifest,
    "config": config,
    "arpa": arpa,
    "lexicon": lexicon,
    "alphabet": alphabet,
    "tar": tar,
    "importer": importer,
}
WEIGHTS = dict(zip(KINDS, (24, 1, 10, 15, 13, 11, 3, 5, 9, 9), strict=True))  # of 100 cases
