"""Generated corpora: three short tones with a text each, laid out as every kind that `dsrun data import` reads has it.

`FIXTURES[kind](folder, utterances)` writes the corpus and returns what is to be imported. An utterance's `text` None means that the corpus
has the recording and no text; `missing` that it has the text and no recording. As a program (`scripts/import_fixtures.sh`) it writes
every kind, with one utterance of each fault, into a folder.
"""

import csv
import io
import json
import sys
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


@dataclass(frozen=True)
class Spoken:
    """One utterance of a fixture; `copies` times in its table."""

    name: str
    text: str | None
    seconds: float = 0.24
    missing: bool = False
    copies: int = 1


PLAIN = (Spoken("0001", "HELLO WORLD"), Spoken("0002", "IT'S ME", 0.3), Spoken("0003", "GOODBYE", 0.36))


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    return 0.3 * np.sin(np.arange(round(seconds * rate)) / 5)


def write_tone(path: Path, seconds: float, *, rate: int = RATE, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, rate), rate, **options)


def write(path: Path, text: str, *, end: str = "\n", mark: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((mark + text.replace("\n", end)).encode())


def _clips(utterances, path_of, **options) -> None:
    for spoken in utterances:
        if not spoken.missing:
            write_tone(path_of(spoken), spoken.seconds, **options)


def _table(utterances, line_of) -> str:
    lines = [line_of(spoken) for spoken in utterances if spoken.text is not None for _ in range(spoken.copies)]
    return "".join(f"{line}\n" for line in lines)


def librispeech(folder, utterances, **style):
    chapter = folder / "dev-clean" / "84" / "121"
    _clips(utterances, lambda s: chapter / f"84-121-{s.name}.flac")
    write(chapter / "84-121.trans.txt", _table(utterances, lambda s: f"84-121-{s.name} {s.text}"), **style)
    return folder


def libritts(folder, utterances, **style):
    chapter = folder / "dev-clean" / "84" / "121"
    _clips(utterances, lambda s: chapter / f"84_121_000_{s.name}.wav", rate=24_000)
    for spoken in utterances:
        if spoken.text is not None:
            write(chapter / f"84_121_000_{spoken.name}.normalized.txt", f"{spoken.text}\n", **style)
            write(chapter / f"84_121_000_{spoken.name}.original.txt", f"{spoken.text}, 1\n", **style)
    return folder


def mls(folder, utterances, **style):
    _clips(utterances, lambda s: folder / "dev" / "audio" / "84" / "121" / f"84_121_{s.name}.flac")
    write(folder / "dev" / "transcripts.txt", _table(utterances, lambda s: f"84_121_{s.name}\t{s.text}"), **style)
    return folder


def common_voice(folder, utterances, **style):
    locale = folder / "en"
    _clips(utterances, lambda s: locale / "clips" / f"common_voice_en_{s.name}.mp3", rate=32_000, format="MP3")
    header = "client_id\tpath\tsentence_id\tsentence\tup_votes\n"
    rows = _table(utterances, lambda s: f"abc\tcommon_voice_en_{s.name}.mp3\tid{s.name}\t{s.text}\t2")
    write(locale / "train.tsv", header + rows, **style)
    write(locale / "validated.tsv", header + rows, **style)
    write(locale / "clip_durations.tsv", "clip\tduration[ms]\n")
    return folder


def tedlium(folder, utterances, **style):
    """One talk; each utterance a part of it, a missing one in a talk that is not there."""
    start, lines = 0.0, [";; a comment"]
    for spoken in utterances:
        if spoken.text is not None:
            talk = f"Talk_{spoken.name}" if spoken.missing else "Talk"
            line = f"{talk} 1 Speaker {start:.2f} {start + spoken.seconds:.2f} <o,f0,male> {spoken.text}"
            lines += [line] * spoken.copies
        start += spoken.seconds
    write_tone(folder / "dev" / "sph" / "Talk.sph", start, format="NIST", subtype="PCM_16")
    write(folder / "dev" / "stm" / "Talk.stm", "".join(f"{line}\n" for line in lines), **style)
    return folder


def aishell(folder, utterances, **style):
    _clips(utterances, lambda s: folder / "wav" / "dev" / "S0002" / f"BAC009S0002W{s.name}.wav")
    table = folder / "transcript" / "aishell_transcript_v0.8.txt"
    write(table, _table(utterances, lambda s: f"BAC009S0002W{s.name} {s.text}"), **style)
    return folder


def ljspeech(folder, utterances, **style):
    _clips(utterances, lambda s: folder / "wavs" / f"LJ001-{s.name}.wav", rate=22_050)
    write(folder / "metadata.csv", _table(utterances, lambda s: f"LJ001-{s.name}|{s.text}|{s.text}"), **style)
    return folder


def deepspeech_csv(folder, utterances, **style):
    _clips(utterances, lambda s: folder / "clips" / f"{s.name}.wav")
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["wav_filename", "wav_filesize", "transcript"])
    for spoken in utterances:
        if spoken.text is not None:
            table.writerows([[f"clips/{spoken.name}.wav", 8044, spoken.text]] * spoken.copies)
    write(folder / "dev.csv", buffer.getvalue(), **style)
    return folder


def deepspeech_pytorch(folder, utterances, **style):
    _clips(utterances, lambda s: folder / "wav" / f"{s.name}.wav")
    for spoken in utterances:
        if spoken.text is not None:
            write(folder / "txt" / f"{spoken.name}.txt", spoken.text)
    lines = "".join(f"wav/{s.name}.wav,txt/{s.name}.txt\n" * s.copies for s in utterances)
    write(folder / "dev.csv", lines, **style)
    return folder


def nemo(folder, utterances, **style):
    _clips(utterances, lambda s: folder / "audio" / f"{s.name}.wav")

    def line(spoken):
        row = {
            "audio_filepath": f"audio/{spoken.name}.wav",
            "duration": spoken.seconds,
            "text": spoken.text,
            "lang": "en",
        }
        return json.dumps(row, ensure_ascii=False)

    write(folder / "dev.json", _table(utterances, line), **style)
    return folder


def kaldi(folder, utterances, **style):
    data = folder / "dev"
    _clips(utterances, lambda s: data / f"{s.name}.wav")
    write(data / "wav.scp", "".join(f"spk-{s.name} {s.name}.wav\n" for s in utterances), **style)
    write(data / "text", _table(utterances, lambda s: f"spk-{s.name} {s.text}"), **style)
    write(data / "utt2spk", "".join(f"spk-{s.name} spk\n" for s in utterances), **style)
    return folder


def hf_folder(folder, utterances, **style):
    _clips(utterances, lambda s: folder / "train" / f"{s.name}.wav")
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["file_name", "transcription"])
    for spoken in utterances:
        if spoken.text is not None:
            table.writerows([[f"{spoken.name}.wav", spoken.text]] * spoken.copies)
    write(folder / "train" / "metadata.csv", buffer.getvalue(), **style)
    return folder


def plain_folder(folder, utterances, **style):
    _clips(utterances, lambda s: folder / "sub" / f"{s.name}.wav")
    for spoken in utterances:
        if spoken.text is not None:
            write(folder / "sub" / f"{spoken.name}.txt", f"{spoken.text}\n", **style)
        if spoken.copies > 1:  # the same name with another ending
            write_tone(folder / "sub" / f"{spoken.name}.flac", spoken.seconds)
    return folder


def webdataset(folder, utterances, **style):
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "train-000000.tar", "w") as tar:

        def add(name, content):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        for spoken in utterances:
            for copy in range(spoken.copies):
                if not spoken.missing:
                    buffer = io.BytesIO()
                    soundfile.write(buffer, tone(spoken.seconds), RATE, format="FLAC")
                    add(f"{spoken.name}.flac", buffer.getvalue())
                if spoken.text is not None:
                    text = style.get("mark", "") + spoken.text + style.get("end", "\n")
                    add(f"{spoken.name}.txt", text.encode())
                if copy + 1 < spoken.copies:
                    add("between.flac", b"")  # so that the two do not stand together
                    add("between.txt", b"x")
    return folder


FIXTURES = {
    "librispeech": librispeech,
    "libritts": libritts,
    "mls": mls,
    "common_voice": common_voice,
    "tedlium": tedlium,
    "aishell": aishell,
    "ljspeech": ljspeech,
    "deepspeech_csv": deepspeech_csv,
    "deepspeech_pytorch": deepspeech_pytorch,
    "nemo": nemo,
    "kaldi": kaldi,
    "hf_folder": hf_folder,
    "folder": plain_folder,
    "webdataset": webdataset,
}


def with_second(**changes):
    """The three, the second changed."""
    return (PLAIN[0], replace(PLAIN[1], **changes), PLAIN[2])


FAULTY = (
    PLAIN[0],
    Spoken("0004", "GONE", missing=True),
    Spoken("0005", " "),
    Spoken("0006", None),
    Spoken("0007", 'SAY "HI, A', copies=2),
    PLAIN[2],
)

if __name__ == "__main__":
    for kind, fixture in FIXTURES.items():
        fixture(Path(sys.argv[1]) / kind, FAULTY)
        print(kind)
