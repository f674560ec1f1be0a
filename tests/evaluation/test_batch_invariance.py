"""Results of an utterance do not depend on which others are evaluated with it, on buckets, or on what lies in the padding.

On trained weights in whole runs: tests/end_to_end/test_evaluation.py.
"""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.arithmetic import FLOAT32_POLICY
from dsrun.evaluation.evaluate import Evaluator
from dsrun.evaluation.whole_pass import trained_pass
from dsrun.model import FrameStackSettings, ModelSettings, init_parameters, initial_statistics
from dsrun.speech import Alphabet, Batcher, Dataset

ALPHABET = Alphabet(tuple(" abcdef"))
SETTINGS = ModelSettings(
    num_bins=10,
    num_classes=ALPHABET.num_classes,
    front_end=FrameStackSettings(stack=3, stride=3, hidden=8),
    hidden=8,
    layers=1,
    direction="bidirectional",
    normalization="batch",
    dropout=0.0,
    relu_clip=20.0,
)
LENGTHS = [3, 7, 8, 12, 20, 21, 25, 33, 34, 40, 47, 48, 60]
NEAREST = 1e-3  # between the best two scores of any frame; the sums of another shape differ by 1e-5 at most


@lru_cache
def dataset() -> Dataset:
    random = np.random.default_rng(3)
    clips = [random.standard_normal((length, 10)).astype(np.float32) for length in LENGTHS]
    labels = [tuple(random.integers(1, 8, size=min(length // 6, 8)).tolist()) for length in LENGTHS]
    ids = tuple(f"u{length:02}" for length in LENGTHS)
    return Dataset(
        ids=ids, labels=tuple(labels), seconds=(1.0,) * len(ids), clips=tuple({1.0: clip} for clip in clips),
        normalization=None, augmentation=None, seed=1,
    )  # fmt: skip


@lru_cache
def network():
    """An evaluator and weights that write many different characters: scores far apart, where training has not put them yet."""
    random = np.random.default_rng(4)
    weights = jax.tree.map(
        lambda x: jnp.asarray(x + random.standard_normal(x.shape), jnp.float32), init_parameters(SETTINGS, 1)
    )
    return Evaluator(trained_pass(SETTINGS, FLOAT32_POLICY)), weights, initial_statistics(SETTINGS)


def batches(global_batch: int, buckets: int, frame_multiple: int):
    return Batcher(
        dataset(), global_batch=global_batch, buckets=buckets, frame_multiple=frame_multiple, seed=1,
        sort_first_epoch=False, shuffle=False,
    ).epoch(0)  # fmt: skip


def results_of(found):
    evaluator, weights, statistics = network()
    references = {id: ALPHABET.decode(label) for id, label in zip(dataset().ids, dataset().labels, strict=True)}
    return evaluator(weights, statistics, found, references=references, alphabet=ALPHABET)


@pytest.mark.slow
def test_texts_and_rates_are_the_same_for_every_batch_size_bucket_and_frame_multiple():
    together = results_of(batches(16, 1, 12))
    texts = [u.hypothesis for u in together.utterances]
    assert len(set("".join(texts))) >= 5, texts  # a network that writes nothing would pass any test
    for global_batch, buckets, frame_multiple in [(1, 1, 64), (4, 2, 12)]:
        found = results_of(batches(global_batch, buckets, frame_multiple))
        assert [u.hypothesis for u in found.utterances] == texts
        assert (found.characters, found.words) == (together.characters, together.words)
        # XLA orders the sums of a matrix product by its shape: last bits of the loss may move.
        losses = [[u.loss for u in one.utterances] for one in (found, together)]
        np.testing.assert_allclose(*losses, rtol=1e-4)


def test_no_frame_of_these_clips_is_so_close_a_call_that_a_last_bit_could_turn_it():
    evaluator, weights, statistics = network()
    (batch,) = batches(16, 1, 12)
    logits, num_frames = evaluator.logits(weights, statistics, batch)
    for row, count in enumerate(num_frames):
        best = np.sort(logits[row, :count], axis=-1)
        assert np.all(best[:, -1] - best[:, -2] > NEAREST)


def test_nan_in_the_padding_and_other_rows_change_no_bit_of_an_utterances_results():
    (batch,) = batches(16, 1, 12)
    features = batch.features.copy()
    for row, count in enumerate(batch.num_frames):
        features[row, count:] = np.nan
    features[-4, :30] = 7.0  # the longest utterance but three fillers
    number = len(LENGTHS) - 1
    assert batch.ids[number] == "u60"
    clean, poisoned = results_of([batch]), results_of([replace(batch, features=features)])
    assert clean.utterances[:number] == poisoned.utterances[:number]
    assert clean.utterances[number] != poisoned.utterances[number]


def test_every_utterance_is_scored_once_and_in_the_manifests_order():
    for cut in [(1, 1, 64), (4, 2, 12)]:
        assert [u.id for u in results_of(batches(*cut)).utterances] == list(dataset().ids)
