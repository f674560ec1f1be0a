"""Make a speech corpus from the telephone prompts in Debian's packages, for English, Spanish, French, Italian or Russian.

    apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-g722
    pip install -e ".[corpus]"
    python scripts/build_prompts_corpus.py --language en --out data/prompts_en

One package has the texts (`name: text`, `;` starts a comment), the other the recordings (16 kHz, raw G.722). Each recording is
decoded, stored as Ogg Vorbis, and listed in train.jsonl, dev.jsonl or test.jsonl by a hash of its normalised text, about 80 / 10 /
10, so that a sentence that was recorded twice is never on both sides.

Texts become what is said: lower case, punctuation gone, `press 1` as `press one`, `*` star, `#` pound, `A.M.` as `a m`. A text
whose spoken form is not certain (brackets, formats like H.323, web addresses, digits in a language whose numbers inflect) is
dropped, and every reason is counted. Same packages, same libsndfile: the same bytes.
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
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16_000
MAX_SECONDS = 16.0
VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
SYMBOLS = {"en": {"*": " star ", "#": " pound "}}
PUNCTUATION = re.compile(r"[.,;:!?…\"“”«»¿¡–—\-]")
APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "`": "'"})
ABBREVIATION = re.compile(r"\b(?:[^\W\d_]\.){2,}", re.UNICODE)
NUMBER = re.compile(r"(?<![\w.,])\d+(?![\w]|[.,]\d)")


class Rejected(ValueError):
    """A text that cannot be normalised with certainty; the message is the reason that is counted."""


def normalize_text(text: str, language: str) -> str:
    """What is said when `text` is read, as lower-case words.

    Raises:
        Rejected: not certain.
    """
    text = unicodedata.normalize("NFKC", text).translate(APOSTROPHES).lower().strip()
    if re.search(r"[\[\]<>(){}]", text):
        raise Rejected("brackets: a tone, a note or a sign")
    text = ABBREVIATION.sub(lambda match: " ".join(match.group().replace(".", " ").split()), text)
    for symbol, word in SYMBOLS.get(language, {}).items():
        text = text.replace(symbol, word)
    if re.search(r"\w\.\w", text):
        raise Rejected("a dot inside a word")
    if language == "en":
        from num2words import num2words

        text = NUMBER.sub(lambda match: " ".join(re.split(r"[\s,-]+", num2words(int(match.group())))), text)
    if re.search(r"\d", text):
        raise Rejected("digits whose reading is not certain")
    words = PUNCTUATION.sub(" ", text).split()
    text = " ".join(word.strip("'") if language == "en" else word for word in words)
    unknown = sorted({c for c in text if not (c.isalpha() or c in " '")})
    if unknown:
        raise Rejected(f"other symbols: {' '.join(unknown)}")
    if not text.strip():
        raise Rejected("no words")
    return " ".join(text.split())


def split_of(text: str) -> str:
    """train, dev or test, by the text alone."""
    tenth = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 10
    return {0: "test", 1: "dev"}.get(tenth, "train")


def read_texts(path: Path) -> dict[str, str]:
    """Prompt name to text; later lines win, as in the package's own tools."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as lines:
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


def _ogg_checksum(page: bytes) -> int:
    value = 0
    for byte in page:
        value = ((value << 8) & 0xFFFF_FFFF) ^ _TABLE[(value >> 24) ^ byte]
    return value


def build(language: str, texts: Path, sounds: Path, out: Path) -> Counter:
    """Write the corpus; returns counts by split and by reason of dropping."""
    counts: Counter = Counter()
    rows: dict[str, list[dict]] = {"train": [], "dev": [], "test": []}
    for name, raw in sorted(read_texts(texts).items()):
        source = sounds / f"{name}.g722"
        if name.startswith("silence/"):
            counts["dropped: silence"] += 1
            continue
        if not source.is_file():
            counts["dropped: no recording"] += 1
            continue
        try:
            text = normalize_text(raw, language)
        except Rejected as reason:
            counts[f"dropped: {reason}"] += 1
            continue
        samples = decode_g722(source.read_bytes())
        seconds = len(samples) / SAMPLE_RATE
        if seconds > MAX_SECONDS:
            counts[f"dropped: longer than {MAX_SECONDS:g} s"] += 1
            continue
        split = split_of(text)
        write_vorbis(out / "audio" / f"{name}.ogg", samples)
        row = {"audio_filepath": f"audio/{name}.ogg", "duration": round(seconds, 4), "text": text, "id": name}
        rows[split].append(row)
        counts[split] += 1
        counts[f"{split} seconds"] += round(seconds)
    for split, lines in rows.items():
        body = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (out / f"{split}.jsonl").write_text(body, encoding="utf-8")
    return counts


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=sorted(VOICES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not hold a corpus already")
    parser.add_argument("--texts", type=Path, help="text file of the package, plain or .gz")
    parser.add_argument("--sounds", type=Path, help="folder of .g722 files")
    options = parser.parse_args()
    language = options.language
    texts = options.texts or Path(f"/usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz")
    sounds = options.sounds or Path("/usr/share/asterisk/sounds") / VOICES[language]
    for path in (texts, sounds):
        if not path.exists():
            packages = f"asterisk-core-sounds-{language} asterisk-core-sounds-{language}-g722"
            sys.exit(f"{path}: not there. Install {packages}, or say where with --texts and --sounds.")
    if (options.out / "train.jsonl").exists():
        sys.exit(f"{options.out}: holds a corpus already; remove it or choose another folder.")
    options.out.mkdir(parents=True, exist_ok=True)
    for name, count in sorted(build(language, texts, sounds, options.out).items()):
        print(f"{count:6d}  {name}")


if __name__ == "__main__":
    main()
