"""Make a speech corpus from the telephone prompts in Debian's packages, for English, Spanish, French, Italian or Russian.

    apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-g722
    pip install -e ".[corpus]"
    python scripts/build_prompts_corpus.py --language en --out data/prompts_en

One package has the texts (`name: text`, `;` starts a comment), the other the recordings (16 kHz, raw G.722). Each recording is
decoded, stored as Ogg Vorbis, and listed in train.jsonl, dev.jsonl or test.jsonl by a hash of its normalised text, about 80 / 10 /
10, so that a sentence that was recorded twice is never on both sides. Nothing is cut: the clips begin and end close to speech.

Texts become what is said: lower case, punctuation gone, `A.M.` as `a m`; in English `press 1` as `press one`, `*` star, `#` pound;
in Russian the letter yo as ye, since the texts write the same word both ways. A text whose spoken form is not certain (brackets,
formats like H.323, web addresses, longer numbers, digits in a language whose numbers inflect, letters of another script, two
prompts run together) is dropped, and every reason is counted. Same packages, same libsndfile: the same bytes.
"""

import argparse
import gzip
import hashlib
import json
import re
import sys
import tempfile
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16_000
MAX_SECONDS = 16.0
DOCUMENTS = Path("/usr/share/doc")
SOUNDS = Path("/usr/share/asterisk/sounds")

PUNCTUATION = re.compile(r"[.,;:!?…\"“”«»¿¡–—\-]")
APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "`": "'"})
ABBREVIATION = re.compile(r"\b(?:[^\W\d_]\.){2,}")
LONE_DIGIT = re.compile(r"(?<![\w.,-])\d(?!\w|[.,-]\d)")
PROMPT_NAME = re.compile(r"\w-[\w-]*:")


@dataclass(frozen=True)
class Language:
    """Where a language's recordings lie, whose they are, and how its signs are read where that is certain."""

    voice: str
    credit: str
    licence: str
    script: str = "LATIN"
    signs: dict[str, str] = field(default_factory=dict)
    letters: dict[str, str] = field(default_factory=dict)
    digits: tuple[str, ...] = ()


LANGUAGES = {
    "en": Language(
        voice="en_US_f_Allison",
        credit="Recorded by Allison Smith (http://www.theivrvoice.com).\n"
        "Financial contributions by Digium, Inc. (http://www.digium.com).",
        licence="CC BY-SA 3.0",
        signs={"*": " star ", "#": " pound "},
        digits=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    ),
    "es": Language(
        voice="es_MX_f_Allison",
        credit="Recorded by Allison Smith (http://www.theivrvoice.com).\n"
        "Financial contributions by Digium, Inc. (http://www.digium.com).",
        licence="CC BY-SA 3.0",
    ),
    "fr": Language(
        voice="fr_CA_f_June",
        credit="Recorded by June Wallack (http://www.junewallack.com). Translated by Clod Patry, Kristopher Lalletti and\n"
        "June Wallack. Financial contributions by Digium, Inc., Unlimitel and BGM Informatique.",
        licence="CC BY-SA 3.0",
    ),
    "it": Language(
        voice="it_IT_m_Carlo",
        credit="Recorded by Carlo Flora (http://www.carloflora.com). Translated by Silvia Petrin.",
        licence="CC BY 3.0",
    ),
    "ru": Language(
        voice="ru_RU_f_IvrvoiceRU",
        credit="Provided by Maxim Topal (http://www.ivrvoice.ru).",
        licence="CC BY 3.0",
        script="CYRILLIC",
        letters={"ё": "е"},
    ),
}


class Rejected(ValueError):
    """A text that cannot be normalised with certainty; the message is the reason that is counted."""


def normalize_text(text: str, language: Language) -> str:
    """What is said when `text` is read, as lower-case words.

    Raises:
        Rejected: not certain.
    """
    text = unicodedata.normalize("NFKC", text).translate(APOSTROPHES).lower().strip()
    if re.search(r"[\[\]<>(){}]", text):
        raise Rejected("brackets: a tone, a note or a sign")
    if PROMPT_NAME.search(text):
        raise Rejected("another prompt's name inside")
    text = ABBREVIATION.sub(lambda match: match.group().replace(".", " "), text)
    for sign, word in {**language.signs, **language.letters}.items():
        text = text.replace(sign, word)
    if re.search(r"\w\.\w", text):
        raise Rejected("a dot inside a word")
    if language.digits:
        text = LONE_DIGIT.sub(lambda match: language.digits[int(match.group())], text)
    if re.search(r"\d", text):
        raise Rejected("digits whose reading is not certain")
    words = [word.strip("'") for word in PUNCTUATION.sub(" ", text).split()]
    text = " ".join(word for word in words if word)
    if not text:
        raise Rejected("no words")
    if not all(character.isalpha() or character in " '" for character in text):
        raise Rejected("other signs")
    if not all(unicodedata.name(letter).startswith(language.script) for letter in text if letter.isalpha()):
        raise Rejected("letters of another script")
    return text


def split_of(text: str) -> str:
    """train, dev or test, by the text alone."""
    tenth = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 10
    return {0: "test", 1: "dev"}.get(tenth, "train")


def read_texts(path: Path) -> dict[str, str]:
    """Prompt name to text, split at the first colon; a name's later line wins."""
    data = path.read_bytes()
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig").splitlines()
    pairs = [line.strip().split(":", 1) for line in lines if ":" in line and not line.lstrip().startswith(";")]
    return {name.strip(): text.strip() for name, text in pairs}


def decode_g722(data: bytes) -> np.ndarray:
    """Raw G.722 at 64 kbit/s to float32 samples at 16 kHz."""
    from G722 import G722

    samples = np.asarray(G722(SAMPLE_RATE, 64_000).decode(data), np.int16)
    return samples.astype(np.float32) / np.float32(32768)


def write_vorbis(path: Path, samples: np.ndarray) -> None:
    """Ogg Vorbis with a stream number taken from the name, so that the same samples give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(suffix=".ogg") as scratch:
        with soundfile.SoundFile(scratch.name, "w", SAMPLE_RATE, 1, format="OGG", subtype="VORBIS") as out:
            for start in range(0, len(samples), SAMPLE_RATE):  # libsndfile's encoder overflows its stack on long blocks
                out.write(samples[start : start + SAMPLE_RATE])
        data = Path(scratch.name).read_bytes()
    serial = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4], "little")
    path.write_bytes(renumber_ogg(data, serial))
    stored = soundfile.info(str(path)).frames
    if stored != len(samples):
        raise SystemExit(f"{path}: {stored} samples came back of {len(samples)} written")


def renumber_ogg(data: bytes, serial: int) -> bytes:
    """The same Ogg pages with another stream number and the checksums that go with it (RFC 3533)."""
    pages, position = [], 0
    while position < len(data):
        segments = data[position + 26]
        size = 27 + segments + sum(data[position + 27 : position + 27 + segments])
        page = bytearray(data[position : position + size])
        page[14:18] = serial.to_bytes(4, "little")
        page[22:26] = bytes(4)
        page[22:26] = _ogg_checksum(page).to_bytes(4, "little")
        pages.append(bytes(page))
        position += size
    return b"".join(pages)


def _checksum_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = ((value << 1) ^ (0x04C11DB7 if value & 0x8000_0000 else 0)) & 0xFFFF_FFFF
        table.append(value)
    return table


_TABLE = _checksum_table()


def _ogg_checksum(page: bytes | bytearray) -> int:
    value = 0
    for byte in page:
        value = ((value << 8) & 0xFFFF_FFFF) ^ _TABLE[(value >> 24) ^ byte]
    return value


@dataclass
class Report:
    """What became of the prompts."""

    utterances: Counter = field(default_factory=Counter)
    seconds: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)

    def text(self) -> str:
        """A table for people."""
        kept = [
            f"{split:<6}{n:6d} clips {self.seconds[split] / 60:7.2f} minutes" for split, n in self.utterances.items()
        ]
        dropped = [f"dropped{n:5d} {reason}" for reason, n in self.dropped.most_common()]
        return "\n".join([*kept, *dropped])


def build(language: Language, texts: Path, sounds: Path, out: Path) -> Report:
    """Write audio, manifests and credits under `out`."""
    report = Report()
    rows: dict[str, list[dict]] = {"train": [], "dev": [], "test": []}
    for name, raw in sorted(read_texts(texts).items()):
        source = sounds / f"{name}.g722"
        try:
            if name.startswith("silence/"):
                raise Rejected("silence")
            if not source.is_file():
                raise Rejected("no recording")
            text = normalize_text(raw, language)
            samples = decode_g722(source.read_bytes())
            seconds = len(samples) / SAMPLE_RATE
            if seconds > MAX_SECONDS:
                raise Rejected(f"longer than {MAX_SECONDS:g} s")
        except Rejected as reason:
            report.dropped[str(reason)] += 1
            continue
        write_vorbis(out / "audio" / f"{name}.ogg", samples)
        row = {"audio_filepath": f"audio/{name}.ogg", "duration": round(seconds, 4), "text": text, "id": name}
        rows[split_of(text)].append(row)
    for split, lines in rows.items():
        report.utterances[split] = len(lines)
        report.seconds[split] = sum(line["duration"] for line in lines)
        body = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (out / f"{split}.jsonl").write_text(body, encoding="utf-8")
    (out / "CREDITS.txt").write_text(credits(language), encoding="utf-8")
    return report


def credits(language: Language) -> str:
    """Whose recordings these are, under which licence, and what was changed: the licence asks for all three."""
    return (
        f"{language.credit}\nLicence: {language.licence}.\n\n"
        f"Changed from the originals ({language.voice}, Asterisk core sounds): decoded from G.722, encoded again as Ogg Vorbis;\n"
        "some prompts left out; texts put in lower case without punctuation, signs and digits written as words.\n"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=sorted(LANGUAGES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not hold a corpus already")
    parser.add_argument("--texts", type=Path, help="text file of the package, plain or .gz")
    parser.add_argument("--sounds", type=Path, help="folder of .g722 files")
    options = parser.parse_args()
    package = f"asterisk-core-sounds-{options.language}"
    language = LANGUAGES[options.language]
    texts = options.texts or DOCUMENTS / package / f"core-sounds-{options.language}.txt.gz"
    sounds = options.sounds or SOUNDS / language.voice
    for path in (texts, sounds):
        if not path.exists():
            sys.exit(
                f"{path}: not there. Install {package} and {package}-g722, or say where with --texts and --sounds."
            )
    if (options.out / "train.jsonl").exists():
        sys.exit(f"{options.out}: holds a corpus already; remove it or choose another folder.")
    options.out.mkdir(parents=True, exist_ok=True)
    print(build(language, texts, sounds, options.out).text())
    print(f"The licence's text: {DOCUMENTS / package / 'copyright'}. Keep it with the corpus if you pass that on.")


if __name__ == "__main__":
    main()
