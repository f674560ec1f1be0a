"""What `dsrun data augment` does: a copy of a manifest as one epoch's augmentation makes it, in files.

For test sets in noise: error rates on a copy at 5 dB, with and without augmentation in training, are compared on the same bits. Each
clip keeps its id, text and speaker, so results can be compared utterance by utterance; what was drawn for it is kept under `augmented`.
Files are FLAC with 16 bits, so quantisation is a noise 98 dB below full scale. SpecAugment's masks are of features and are not in it.

As an import does, it writes into a folder aside, .OUT.part, that takes OUT's name when all is there. What fails or is interrupted leaves
no OUT, so the corrected command is the same command; after a kill the next one removes what lies aside.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import soundfile

from dsrun import build
from dsrun.config import Config, load_config
from dsrun.errors import UsageError
from dsrun.record import write_atomically
from dsrun.speech import Augmentation, Utterance, Workers, augment_stages, open_manifest, read_utterance

MANIFEST = "manifest.jsonl"


def augment_manifest(
    manifest: Path, out: Path, *, config: Path, sets: Sequence[str] = (), epoch: int = 0, workers: int = 0
) -> dict[str, Any]:
    """Write each clip as an epoch hears it, with `manifest.jsonl` beside them: all of it or nothing.

    Raises:
        UsageError: the folder holds something already; the config augments no samples.
        DataError: a clip, a noise or an impulse response cannot be used.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: is there already. Name another folder, or remove it.")
    resolved = load_config(config, sets).config
    augmentation = build.build_augmentation(resolved)
    if augmentation is None or not (augmentation.varies_samples or augmentation.speeds != (1.0,)):
        raise UsageError(
            f"{config}: augments no samples, so the copy would be none. Write augment.noise, reverb, gain_db or speeds."
        )
    utterances = open_manifest(manifest)
    target = Path(os.path.realpath(out))  # of a link to an empty folder that folder is replaced, not the link
    aside, pool = target.with_name(f".{target.name}.part"), Workers(workers)
    one = partial(_write_one, folder=aside / "audio", config=resolved, augmentation=augmentation, epoch=epoch)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "audio").mkdir(parents=True)
        rows = list(pool.map(one, utterances))
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomically(aside / MANIFEST, text)
        os.rename(aside, target)
    except (OSError, soundfile.LibsndfileError) as error:
        raise UsageError(f"{out}: cannot be written there ({error}).") from None
    finally:
        pool.close()  # or a thread may write a clip while the folder is removed
        shutil.rmtree(aside, ignore_errors=True)
    return {
        "manifest": str(out / MANIFEST),
        "utterances": len(rows),
        "seconds": round(sum(row["duration"] for row in rows), 3),
        "turned_down": sum("level: " in row["augmented"] for row in rows),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def _write_one(
    utterance: Utterance, *, folder: Path, config: Config, augmentation: Augmentation, epoch: int
) -> dict[str, Any]:
    rate = config.data.sample_rate
    samples = read_utterance(utterance, build.build_audio(config))
    told = []
    for stage in augment_stages(
        samples, augmentation=augmentation, sample_rate=rate, seed=config.seed, epoch=epoch, id=utterance.id
    ):
        samples = stage.samples
        told.append(f"{stage.name}: {stage.drawn}")
    # Not the id: it may have slashes, and more characters than a file's name may have.
    path = folder / f"{hashlib.sha256(utterance.id.encode()).hexdigest()[:16]}.flac"
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return dict(_fields(utterance, path, len(samples) / rate, "; ".join(told)))


def _fields(utterance: Utterance, path: Path, seconds: float, told: str) -> Iterator[tuple[str, Any]]:
    yield "audio_filepath", f"{path.parent.name}/{path.name}"
    yield "duration", round(seconds, 4)
    yield "text", utterance.text
    yield "id", utterance.id
    if utterance.speaker is not None:
        yield "speaker", utterance.speaker
    yield "sha256", hashlib.sha256(path.read_bytes()).hexdigest()
    yield "augmented", told
