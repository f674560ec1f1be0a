"""What is kept of the utterances that a report draws: the same bytes again, small, and read back as it was heard."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dsrun.errors import DataError
from dsrun.evaluation.clock import OutputClock
from dsrun.evaluation.posteriors import (
    LARGEST_UTTERANCE,
    MOST_CLASSES,
    Heard,
    load_posteriors,
    log10_probabilities,
    posteriors_bytes,
)


def heard(frames: int = 90, *, classes: int = 4, id: str = "u 1") -> Heard:
    rng = np.random.default_rng(frames)
    return Heard(
        id=id, reference="a b", hypothesis="ab", features=rng.standard_normal((frames, 7)).astype(np.float32) * 2,
        first_frame=0.01, hop=0.01, highest=(8.0, "kHz"), logits=rng.standard_normal((frames // 3, classes)).astype(np.float32) * 5,
        clock=OutputClock(0.02, 0.03), symbols="".join(chr(ord("a") + n) for n in range(classes - 1)), wanted=[1],
    )  # fmt: skip


def read(tmp_path, content: bytes):
    path = tmp_path / "posteriors.npz"
    path.write_bytes(content)
    return load_posteriors(path)


def test_what_is_read_is_what_was_heard_up_to_the_stated_roundings_and_the_best_path_is_exact(tmp_path):
    own = heard()
    found = read(tmp_path, posteriors_bytes(7, "test", {"median": own}))
    shown = found.utterances["median"]
    assert (found.step, found.split, dict(found.left_out)) == (7, "test", {})
    assert (shown.id, shown.reference, shown.hypothesis, shown.clock) == ("u 1", "a b", "ab", OutputClock(0.02, 0.03))
    np.testing.assert_allclose(shown.features, np.clip(own.features, -4, 4), atol=4 / 255 + 1e-6)
    np.testing.assert_allclose(shown.log10_probs, log10_probabilities(own.logits), rtol=2**-11, atol=1e-7)
    np.testing.assert_array_equal(shown.path, own.logits.argmax(axis=1))
    assert (shown.classes, dict(shown.symbols)) == ((0, 1, 2, 3), {1: "a", 2: "b", 3: "c"})


def test_the_same_utterances_give_the_same_bytes():
    assert posteriors_bytes(1, "dev", {"best": heard()}) == posteriors_bytes(1, "dev", {"best": heard()})


def test_of_a_long_utterance_neighbouring_frames_are_averaged_around_their_middle_and_it_is_small(tmp_path):
    own = heard(30_000)
    content = posteriors_bytes(1, "dev", {"best": own})
    assert len(content) < 300_000
    shown = read(tmp_path, content).utterances["best"]
    # 210 kB of features in twos, and 20 kB of probabilities and path.
    assert (shown.hop, shown.first_frame) == (0.02, 0.015)
    np.testing.assert_allclose(shown.features[5], np.clip(own.features[10:12].mean(axis=0), -4, 4), atol=4 / 255 + 1e-6)
    assert shown.size <= LARGEST_UTTERANCE


def test_what_is_too_long_or_not_finite_is_left_out_with_its_reason_and_the_others_stay(tmp_path):
    broken = replace(heard(), logits=np.full((30, 4), np.nan, np.float32))
    found = read(tmp_path, posteriors_bytes(1, "dev", {"best": heard(400_000), "median": heard(), "worst": broken}))
    assert list(found.utterances) == ["median"]
    assert "400000 frames" in found.left_out["best"]
    assert found.left_out["worst"] == "its class scores are not finite"


def test_of_a_large_alphabet_few_classes_are_kept_and_the_path_may_leave_them(tmp_path):
    own = heard(900, classes=3000)
    shown = read(tmp_path, posteriors_bytes(1, "dev", {"worst": own})).utterances["worst"]
    assert len(shown.classes) == MOST_CLASSES
    assert 0 in shown.classes
    assert set(shown.path.tolist()) - set(shown.classes)
    assert all(shown.symbols[number] == own.symbols[number - 1] for number in shown.path.tolist() if number)


@pytest.mark.parametrize("change", [{"step": -1}, {"utterances": [{}]}, {"split": 3}, {"left_out": None}])
def test_facts_that_dsrun_does_not_write_are_one_message(tmp_path, change):
    with np.load(_saved(tmp_path)) as found:
        arrays = dict(found)
    facts = json.loads(arrays["facts"].tobytes()) | change
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(DataError, match="not a whole file of posteriors"):
        load_posteriors(tmp_path / "changed.npz")


def _saved(tmp_path):
    path = tmp_path / "saved.npz"
    path.write_bytes(posteriors_bytes(1, "dev", {"best": heard()}))
    return path
