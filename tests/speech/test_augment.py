"""Augmentation: what is random, keyed by what, and what the masks and the resampler may touch."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrun.speech import Augmentation, change_speed, spec_augment, utterance_rng

RATE = 16_000


def draw(*key):
    return utterance_rng(*key).integers(1 << 63, size=4).tolist()


def test_each_part_of_the_key_changes_the_numbers_and_the_same_key_repeats_them():
    key = (1, 2, "a", "masks")
    others = [
        (9, 2, "a", "masks"),
        (1, 9, "a", "masks"),
        (1, 2, "b", "masks"),
        (1, 2, "a", "speed"),
        (12, 0, "a", "masks"),
    ]
    assert draw(*key) == draw(*key)
    assert len({tuple(draw(*each)) for each in [key, *others]}) == 1 + len(others)


def test_numbers_are_the_same_in_another_process_with_another_hash_seed():
    program = "from dsrun.speech import utterance_rng; print(utterance_rng(1, 2, 'é', 'masks').integers(1 << 63, size=4).tolist())"
    for hash_seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        output = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert output.stdout.strip() == str(draw(1, 2, "é", "masks"))


def test_numbers_are_those_of_the_first_release():
    # Another keying is another experiment under the same config: change it only with a note in CHANGELOG, heading Numerics.
    assert utterance_rng(1, 2, "vm-goodbye", "speed").integers(1 << 32, size=3).tolist() == [
        3919172093,
        252040663,
        3714749298,
    ]


@pytest.mark.parametrize("factor", [0.9, 1.1, 0.5, 2.0])
def test_faster_is_shorter_and_higher_by_the_factor(factor):
    tone = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    changed = change_speed(tone, factor, RATE)
    assert changed.dtype == np.float32
    assert abs(len(changed) - len(tone) / factor) <= 1
    spectrum = np.abs(np.fft.rfft(changed))
    assert spectrum.argmax() * RATE / len(changed) == pytest.approx(1000 * factor, abs=RATE / len(changed))
    middle = changed[len(changed) // 4 : -len(changed) // 4]
    assert np.sqrt(np.mean(middle.astype(np.float64) ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)


def test_speed_1_is_the_recording_itself():
    samples = np.linspace(-1, 1, 999, dtype=np.float32)
    assert change_speed(samples, 1.0, RATE).tobytes() == samples.tobytes()


def test_a_changed_speed_repeats_its_bits():
    samples = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    assert change_speed(samples, 0.9, RATE).tobytes() == change_speed(samples.copy(), 0.9, RATE).tobytes()


def filled(frames, bins):
    """No zero among them, so that a masked cell is seen."""
    return np.random.default_rng(frames * 1000 + bins).uniform(1, 2, (frames, bins)).astype(np.float32)


def runs(flags):
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


@settings(max_examples=200, deadline=None)
@given(
    frames=st.integers(1, 60),
    bins=st.integers(1, 40),
    time_masks=st.integers(0, 3),
    max_time=st.integers(0, 30),
    frequency_masks=st.integers(0, 3),
    max_frequency=st.integers(0, 50),
    seed=st.integers(0, 10_000),
)
def test_masks_are_few_whole_bands_and_everything_else_keeps_its_bits(
    frames, bins, time_masks, max_time, frequency_masks, max_frequency, seed
):
    features = filled(frames, bins)
    before = features.tobytes()
    augmentation = Augmentation((1.0,), time_masks, max_time, frequency_masks, max_frequency)
    masked = spec_augment(features, augmentation, rng=utterance_rng(seed, 0, "a", "masks"))
    assert features.tobytes() == before
    hidden = masked == 0
    np.testing.assert_array_equal(masked[~hidden], features[~hidden])
    rows, columns = hidden.all(axis=1), hidden.all(axis=0)
    if not rows.all() and not columns.all():  # otherwise the two kinds cannot be told apart
        np.testing.assert_array_equal(hidden, rows[:, None] | columns[None, :])
        assert rows.sum() <= time_masks * min(max_time, frames // 5)
        assert columns.sum() <= frequency_masks * min(max_frequency, bins)
        assert len(runs(rows)) <= time_masks
        assert len(runs(columns)) <= frequency_masks


def test_a_mask_has_every_width_up_to_its_largest_about_equally_often():
    augmentation = Augmentation((1.0,), 1, 4, 0, 0)
    trials = 2000
    widths = [
        int((spec_augment(filled(50, 3), augmentation, rng=utterance_rng(0, epoch, "a", "masks"))[:, 0] == 0).sum())
        for epoch in range(trials)
    ]
    counts = np.bincount(widths, minlength=5)
    assert len(counts) == 5
    standard_error = np.sqrt(trials * 0.2 * 0.8)
    assert np.abs(counts - trials / 5).max() < 4 * standard_error


def test_a_mask_reaches_the_first_and_the_last_frame_and_bin():
    augmentation = Augmentation((1.0,), 1, 4, 1, 4)
    hidden = sum(
        (spec_augment(filled(20, 8), augmentation, rng=utterance_rng(0, epoch, "a", "masks")) == 0).astype(int)
        for epoch in range(300)
    )
    assert hidden.min() > 0


def test_a_clip_of_four_frames_loses_none():
    augmentation = Augmentation((1.0,), 3, 20, 0, 0)
    for epoch in range(50):
        rng = utterance_rng(0, epoch, "a", "masks")
        np.testing.assert_array_equal(spec_augment(filled(4, 8), augmentation, rng=rng), filled(4, 8))
