"""Make noises and impulse responses of rooms for augmentation and for noisy test sets, from nothing but a seed and some clips.

    python scripts/make_noises.py --out data/noises --clips data/prompts_en/train.jsonl

Writes FLAC files (16 kHz) and four manifests: train_noises, train_rooms, dev_noises, dev_rooms. What is in train's is never in dev's:
other draws, and for babble other clips, so that a network which has learnt one recording by heart is not rewarded.

Noises of 10 s: `white`, `pink` (power falls with frequency), `hum` (mains with harmonics, over a floor), `clicks` (bursts of 2 to 20 ms),
`babble` (six voices at once, each of clips in random order, at equal level; without --clips there is none).

Rooms: `decay` is a direct sound and noise that falls by 60 dB in the room's reverberation time; `box` is a rectangular room by the
image-source method (Allen and Berkley 1979), wall reflection from Eyring's formula, each image at the nearest sample, images until 60 dB
are gone. Reverberation times from 0.15 to 0.8 s; a box reverberates up to a third longer than asked, since its sound field is not diffuse.

These are not recordings of the world: an error rate on them tells how a change of training changes robustness, not what a call from
a car would give. For that bring recorded noises and responses as manifests of the same form. Same seed, same NumPy and libsndfile: the
same bytes.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from dsrun.errors import DsrunError
from dsrun.speech import AudioSettings, Utterance, read_manifest, read_utterance, utterance_rng, write_manifest

SAMPLE_RATE = 16_000
SECONDS = 10.0
VOICES = 6
SPEED_OF_SOUND = 343.0  # metres a second
DECAY_TIMES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)  # seconds for 60 dB
BOX_TIMES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
PEAK = 0.5


def main() -> None:
    """Write both sets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for files and manifests")
    parser.add_argument("--clips", type=Path, help="manifest whose clips become babble")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--noises", type=int, default=4, help="of each kind, for train and for dev")
    options = parser.parse_args()
    try:
        clips = read_manifest(options.clips) if options.clips else []
        for part, split in enumerate(("train", "dev")):
            voices = [clip for number, clip in enumerate(clips) if number % 2 == part]
            noises = make_noises(options.seed, split, voices, options.noises)
            rooms = make_rooms(options.seed, split)
            for kind, made in (("noises", noises), ("rooms", rooms)):
                seconds = write(options.out, f"{split}_{kind}", made)
                print(f"{options.out / f'{split}_{kind}.jsonl'}: {len(made)} {kind}, {seconds:.1f} s")
    except DsrunError as error:
        sys.exit(str(error))


def make_noises(seed: int, split: str, voices: Sequence[Utterance], count: int) -> dict[str, np.ndarray]:
    """Noises by name; babble only where there are voices."""
    kinds: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
        "white": white, "pink": pink, "hum": hum, "clicks": clicks,
    }  # fmt: skip
    if voices:
        spoken = [read_utterance(voice, AudioSettings(SAMPLE_RATE, resample=True)) for voice in voices]
        kinds["babble"] = lambda rng: babble(rng, spoken)
    return {
        f"{kind}_{number}": make(utterance_rng(seed, 0, f"{kind}_{number}", f"{split} noise"))
        for kind, make in kinds.items()
        for number in range(count)
    }


def white(rng: np.random.Generator) -> np.ndarray:
    """Equal power at all frequencies."""
    return rng.standard_normal(round(SECONDS * SAMPLE_RATE))


def pink(rng: np.random.Generator) -> np.ndarray:
    """Power as 1 / frequency, from 20 Hz on."""
    spectrum = np.fft.rfft(white(rng))
    frequency = np.fft.rfftfreq(round(SECONDS * SAMPLE_RATE), 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(frequency, 20.0)))


def hum(rng: np.random.Generator) -> np.ndarray:
    """Mains at 50 or 60 Hz with twenty harmonics, over pink noise 20 dB below."""
    time = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    mains = rng.choice([50.0, 60.0]) * rng.uniform(0.995, 1.005)
    tones = [
        rng.uniform(0.3, 1) / order * np.sin(2 * np.pi * (order * mains * time + rng.random()))
        for order in range(1, 21)
    ]
    sound, floor = np.sum(tones, axis=0), pink(rng)
    return sound + floor * np.sqrt(np.mean(sound**2) / np.mean(floor**2)) * 0.1


def clicks(rng: np.random.Generator) -> np.ndarray:
    """Bursts of noise that die away in 2 to 20 ms, 2 to 20 a second."""
    sound = np.zeros(round(SECONDS * SAMPLE_RATE))
    for _ in range(rng.poisson(SECONDS * rng.uniform(2, 20))):
        length = round(rng.uniform(0.002, 0.02) * SAMPLE_RATE)
        start = int(rng.integers(len(sound) - length))
        burst = rng.standard_normal(length) * np.exp(-5 * np.arange(length) / length)
        sound[start : start + length] += burst * rng.uniform(0.2, 1)
    return sound


def babble(rng: np.random.Generator, spoken: Sequence[np.ndarray]) -> np.ndarray:
    """Six voices at once, as loud as each other."""
    length = round(SECONDS * SAMPLE_RATE)
    voices = []
    for _ in range(VOICES):
        order = rng.permutation(len(spoken))
        voice = np.resize(np.concatenate([spoken[number] for number in order]).astype(np.float64), length)
        voices.append(voice / np.sqrt(np.mean(voice**2)))
    return np.sum(voices, axis=0)


def make_rooms(seed: int, split: str) -> dict[str, np.ndarray]:
    """Impulse responses by name."""
    made = {}
    for kind, times, make in (("decay", DECAY_TIMES, decay), ("box", BOX_TIMES, box)):
        for time in times:
            name = f"{kind}_{time:g}s"
            made[name] = make(utterance_rng(seed, 0, name, f"{split} room"), time)
    return made


def decay(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A direct sound, then noise that falls by 60 dB in so many seconds, its energy from a fifth to twice the direct sound's."""
    length = round(1.1 * seconds * SAMPLE_RATE)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / SAMPLE_RATE / seconds)
    gap = round(rng.uniform(0.001, 0.01) * SAMPLE_RATE)
    tail[:gap] = 0.0
    response = tail * np.sqrt(rng.uniform(0.2, 2) / np.sum(tail**2))
    response[0] = 1.0
    return response


def box(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A rectangular room of random size with source and microphone somewhere in it, half a metre from walls and more."""
    size = rng.uniform([3.0, 2.5, 2.4], [8.0, 6.0, 3.5])
    source, microphone = rng.uniform(0.5, size - 0.5), rng.uniform(0.5, size - 0.5)
    area = 2 * (size[0] * size[1] + size[1] * size[2] + size[2] * size[0])
    reflected = np.exp(
        -0.161 * size.prod() / (area * seconds) / 2
    )  # Eyring; of pressure, so half the exponent of energy
    reach = np.ceil(SPEED_OF_SOUND * seconds / (2 * size)).astype(int)
    distance, bounces = np.zeros((1, 1, 1)), np.zeros((1, 1, 1))
    for axis in range(3):
        cell = np.arange(-reach[axis], reach[axis] + 1)
        # Images repeat every two room lengths, each with a mirrored one; walls hit on the way there are counted.
        places = np.concatenate([2 * cell * size[axis] + source[axis], 2 * cell * size[axis] - source[axis]])
        hits = np.concatenate([np.abs(2 * cell), np.abs(2 * cell - 1)])
        shape = [-1 if axis == other else 1 for other in range(3)]
        distance = distance + (places - microphone[axis]).reshape(shape) ** 2
        bounces = bounces + hits.reshape(shape)
    distance = np.sqrt(distance)
    delay = np.round(distance / SPEED_OF_SOUND * SAMPLE_RATE).astype(int).ravel()
    pressure = (reflected**bounces / np.maximum(distance, 0.1)).ravel()
    heard = delay < round(seconds * SAMPLE_RATE)
    return high_pass(np.bincount(delay[heard], pressure[heard], round(seconds * SAMPLE_RATE)))


def high_pass(response: np.ndarray, corner: float = 100.0) -> np.ndarray:
    """Without what lies below 100 Hz, as Allen and Berkley do: images are all positive, so they add up there for too long."""
    frequency = np.fft.rfftfreq(2 * len(response), 1 / SAMPLE_RATE)
    gain = frequency**2 / (frequency**2 + corner**2)
    return np.fft.irfft(np.fft.rfft(response, 2 * len(response)) * gain)[: len(response)]


def write(out: Path, name: str, sounds: dict[str, np.ndarray]) -> float:
    """Files and their manifest; seconds of all."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for id, sound in sounds.items():
        path = folder / f"{id}.flac"
        soundfile.write(path, sound * (PEAK / np.abs(sound).max()), SAMPLE_RATE, subtype="PCM_16")
        rows.append({"audio_filepath": f"{name}/{id}.flac", "duration": round(len(sound) / SAMPLE_RATE, 4), "id": id})
    write_manifest(out / f"{name}.jsonl", rows)
    return sum(len(sound) for sound in sounds.values()) / SAMPLE_RATE


if __name__ == "__main__":
    main()
