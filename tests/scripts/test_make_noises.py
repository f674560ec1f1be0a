"""The noises and rooms of the project's own experiments are what their names say, and train's are not dev's."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dsrun.speech import AudioSettings, load_bank, read_manifest

REPOSITORY = Path(__file__).parents[2]


def _load_script():
    spec = importlib.util.spec_from_file_location("make_noises", REPOSITORY / "scripts/make_noises.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = _load_script()
RATE = script.SAMPLE_RATE


def random(seed=0):
    return np.random.default_rng(seed)


def octave_levels(sound):
    """Power in decibels in octaves from 62.5 Hz to 8 kHz."""
    power = np.abs(np.fft.rfft(sound)) ** 2
    frequency = np.fft.rfftfreq(len(sound), 1 / RATE)
    edges = 62.5 * 2.0 ** np.arange(8)
    return [10 * np.log10(power[(frequency >= a) & (frequency < 2 * a)].sum()) for a in edges[:-1]]


def test_pink_has_equal_power_in_every_octave_and_white_3_decibels_more_in_each():
    np.testing.assert_allclose(np.diff(octave_levels(script.pink(random()))), 0, atol=1)
    np.testing.assert_allclose(np.diff(octave_levels(script.white(random()))), 3, atol=1)


def test_hum_lies_at_multiples_of_the_mains():
    power = np.abs(np.fft.rfft(script.hum(random()))) ** 2
    frequency = np.argmax(power) * RATE / round(script.SECONDS * RATE)
    assert any(abs(frequency - mains * order) < 2 for mains in (50, 60) for order in (1, 2, 3))


def reverberation(response):
    """Seconds for 60 dB, from the fall from -5 to -25 dB of the energy that is still to come (Schroeder)."""
    left = np.cumsum(response[::-1] ** 2)[::-1]
    level = 10 * np.log10(left / left[0] + 1e-12)
    return 3 * (np.argmax(level < -25) - np.argmax(level < -5)) / RATE


@pytest.mark.parametrize("seconds", [0.2, 0.5, 0.8])
def test_a_decay_falls_by_60_decibels_in_its_time(seconds):
    for seed in range(3):
        assert reverberation(script.decay(random(seed), seconds)) == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize("seconds", [0.15, 0.3])
def test_a_box_reverberates_for_its_time_and_up_to_a_third_longer(seconds):
    for seed in range(3):
        assert seconds * 0.95 < reverberation(script.box(random(seed), seconds)) < seconds * 1.35


def test_a_box_is_its_images_counted_one_by_one():
    # The same room by the definition: an image for each number of bounces at each of the six walls.
    seed, seconds = 3, 0.1
    found = script.box(random(seed), seconds)
    rng = random(seed)
    size = rng.uniform([3.0, 2.5, 2.4], [8.0, 6.0, 3.5])
    source, microphone = rng.uniform(0.5, size - 0.5), rng.uniform(0.5, size - 0.5)
    area = 2 * (size[0] * size[1] + size[1] * size[2] + size[2] * size[0])
    kept = np.exp(-0.161 * size.prod() / (area * seconds))  # of energy at a wall
    response = np.zeros(round(seconds * RATE))
    most = range(-12, 13)
    for x, y, z in ((x, y, z) for x in most for y in most for z in most):
        image = [
            bounces * length + (place if bounces % 2 == 0 else length - place)
            for bounces, length, place in zip((x, y, z), size, source, strict=True)
        ]
        distance = np.linalg.norm(np.array(image) - microphone)
        sample = round(distance / script.SPEED_OF_SOUND * RATE)
        if sample < len(response):
            response[sample] += np.sqrt(kept) ** (abs(x) + abs(y) + abs(z)) / distance
    np.testing.assert_allclose(found, script.high_pass(response), atol=1e-9)


def test_the_sets_are_manifests_that_augmentation_reads_with_nothing_in_both(tmp_path, monkeypatch):
    clips = tmp_path / "clips.jsonl"
    lines = []
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", random(number).normal(0, 0.1, RATE), RATE)
        lines.append(f'{{"audio_filepath": "{number}.wav", "duration": 1.0, "text": "a"}}\n')
    clips.write_text("".join(lines))
    monkeypatch.setattr(script, "SECONDS", 1.0)
    monkeypatch.setattr(
        sys, "argv", ["make_noises.py", "--out", str(tmp_path / "out"), "--clips", str(clips), "--noises", "1"]
    )
    script.main()
    digests = {}
    for split in ("train", "dev"):
        for kind, count in (("noises", 5), ("rooms", 12)):
            manifest = read_manifest(tmp_path / "out" / f"{split}_{kind}.jsonl", transcripts="optional")
            bank = load_bank(manifest, AudioSettings(RATE))
            assert len(bank.ids) == count
            digests[split, kind] = {digest for _, digest in bank.recordings}
    assert not digests["train", "noises"] & digests["dev", "noises"]
    assert not digests["train", "rooms"] & digests["dev", "rooms"]
