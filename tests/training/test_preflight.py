"""The largest shapes of training, dev and test are tried before the first step: what is tried, that nothing changes, and what is said
where it does not fit."""

from functools import lru_cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun import build
from dsrun import experiment as roof
from dsrun.arithmetic import FLOAT32_POLICY
from dsrun.errors import UsageError
from dsrun.evaluation.evaluate import Evaluator
from dsrun.evaluation.whole_pass import trained_pass
from dsrun.speech import Alphabet, Batcher, Dataset
from dsrun.training.preflight import (
    DEV_ADVICE,
    EvaluationShape,
    Need,
    evaluation_advice,
    explaining_lack_of_memory,
    largest_shapes,
    preflight,
    preflight_evaluation,
)
from dsrun.training.step import split_batch
from dsrun.training.watchdog import Watchdog
from tests.training.test_step import SETTINGS, bits, make_batch, make_step

ALPHABET = Alphabet(tuple("abcd"))


def compilations(monkeypatch):
    """Grows by one with every program that is compiled, or found compiled on disk."""
    from jax._src import compiler

    found, original = [], compiler.compile_or_get_cached

    def compile_or_get_cached(*args, **options):
        found.append(1)
        return original(*args, **options)

    monkeypatch.setattr(compiler, "compile_or_get_cached", compile_or_get_cached)
    return found


def test_the_shapes_tried_are_those_that_no_other_exceeds_in_frames_and_labels():
    # CTC's lattice of the second is the largest: 180,000 cells against 10,000 and 21,000.
    assert largest_shapes([(100, 210), (1000, 10), (900, 200), (900, 9)]) == [(1000, 10), (900, 200), (100, 210)]
    assert largest_shapes([(24, 9), (48, 12), (72, 20)]) == [(72, 20)]
    assert largest_shapes([(24, 9), (48, 30), (72, 20), (72, 11)]) == [(72, 20), (48, 30)]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_tried_step_keeps_its_bits_and_finds_its_program_compiled(devices, monkeypatch):
    batch = make_batch(frames=24, labels=4)
    tried, plain = make_step(devices=devices), make_step(devices=devices)
    state = tried.start()
    before = bits(jax.device_get(state.first))
    seen = compilations(monkeypatch)
    (need,) = preflight(tried, state, [(12, 3), (24, 4)], rows=8, free=lambda _: 2**40)
    assert seen  # what is counted can be
    assert need.frames == 24
    assert need.bytes_planned > 24 * 7 * 4  # more than a shard's features
    assert bits(jax.device_get(state.first)) == before
    seen.clear()
    total = jax.block_until_ready(tried.total(state, split_batch(batch, tried.shards)))
    assert seen == []
    after, _ = tried.update(state, total)
    expected, _ = plain(plain.start(), split_batch(batch, plain.shards))
    assert bits(jax.device_get(after.first)) == bits(jax.device_get(expected.first))


def test_a_plan_beyond_what_is_free_is_refused_before_anything_runs(monkeypatch):
    step = make_step(devices=2)
    state = step.start()
    monkeypatch.setattr(step, "total", lambda *_: pytest.fail("was run"))
    with pytest.raises(UsageError) as caught:
        preflight(step, state, [(24, 4), (12, 9)], rows=8, free=lambda _: 1000)
    text = str(caught.value)
    for part in (
        "8 rows x 24 frames x 4 labels", "on 2 devices together", "0.0 MiB are free", "batches.shards", "model.residuals: recompute"
    ):  # fmt: skip
        assert part in text


def batcher(lengths, ids, labels=None):
    """One bucket of clips of so many frames, with so many labels (four each), in batches of eight."""
    random = np.random.default_rng(5)
    dataset = Dataset(
        ids=ids, labels=tuple((1,) * count for count in labels or [4] * len(ids)), seconds=(1.0,) * len(ids),
        clips=tuple({1.0: random.standard_normal((length, 7)).astype(np.float32)} for length in lengths),
        normalization=None, augmentation=None, seed=1,
    )  # fmt: skip
    return Batcher(dataset, global_batch=8, buckets=1, frame_multiple=12, seed=1, sort_first_epoch=False, shuffle=False)


@lru_cache
def experiment():
    """Training's longest clip has 24 frames, a shape that the tests of the step compile too; dev's has 1,200, and there is no test."""
    ids = ("short", "a lecture")
    return SimpleNamespace(
        step=make_step(),
        batcher=batcher([12, 24], ("a", "b")),
        dev_batcher=batcher([24, 1200], ids),
        evaluator=Evaluator(trained_pass(SETTINGS, FLOAT32_POLICY)),
        data=SimpleNamespace(dev_references=dict.fromkeys(ids, "abcd"), alphabet=ALPHABET, test_shapes=()),
    )


CONFIG = SimpleNamespace(batches=SimpleNamespace(global_batch=8))


def with_the_long_one_in_test():
    """The same, where dev is as short as training is."""
    dev, test = batcher([12, 24], ("c", "d")), batcher([24, 1200], ("short", "a lecture"))
    data = SimpleNamespace(test_shapes=build.evaluation_shapes(test, "data.test"))
    return SimpleNamespace(**vars(experiment()) | {"dev_batcher": dev, "data": data})


@pytest.mark.parametrize(("make", "source"), [(experiment, "data.dev"), (with_the_long_one_in_test, "data.test")])
def test_one_long_utterance_of_dev_or_test_is_refused_before_the_first_step_where_training_fits(
    make, source, monkeypatch
):
    tried = make()
    state = tried.step.start()
    (gradient,) = preflight(tried.step, state, tried.batcher.shapes(), rows=8)
    assert gradient.frames == 24
    monkeypatch.setattr("dsrun.training.preflight.free_memory", lambda _: 2 * gradient.bytes_planned)
    monkeypatch.setattr(tried.evaluator, "logits", lambda *_: pytest.fail("was run"))
    with pytest.raises(UsageError, match="^out of memory before the first step: the evaluation of ") as caught:
        roof._preflight(CONFIG, tried, state, Watchdog(None))
    text = str(caught.value)
    shape = f"8 rows x 1200 frames x 4 labels ({source}, its longest utterance 'a lecture') needs"
    for part in (shape, "are free", f"longest utterances of {source} cut or left out"):
        assert part in text
    assert ("dsrun eval RUN --manifest" in text) == (source == "data.test")
    assert "batches.shards" not in text  # one device evaluates a batch, however many shards it has


def test_an_evaluation_finds_the_program_compiled_that_was_tried(monkeypatch):
    tried = experiment()
    state = tried.step.start()
    seen = compilations(monkeypatch)
    lines = roof._preflight(CONFIG, tried, state, Watchdog(None)).split("\n")
    assert [line.split(";")[0] for line in lines] == [
        "memory: a batch of 8 rows x 24 frames x 4 labels fits, the largest",
        "memory: a batch of 8 rows x 1200 frames x 4 labels of data.dev fits, the largest",
    ]
    batch = tried.dev_batcher.batch(0, 0)
    state, _ = tried.step(state, split_batch(make_batch(), tried.step.shards))
    weights, statistics = tried.step.weights(state.first), state.first.statistics
    seen.clear()
    result = roof._dev_evaluation(tried, iter)(weights, statistics)
    assert result.summary["utterances"] == 2
    assert tried.evaluator.planned_bytes(weights, statistics, batch) > batch.features.nbytes
    assert seen == []
    other = Evaluator(trained_pass(SETTINGS, FLOAT32_POLICY)).logits(weights, statistics, batch)
    assert seen  # what is counted can be
    assert bits(other) == bits(tried.evaluator.logits(weights, statistics, batch))


def test_an_evaluation_that_the_allocator_refuses_is_explained_as_one():
    class Full:
        def planned_bytes(self, *_):
            return None

        def logits(self, *_):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 4 GiB")

    step = make_step()
    shapes = (EvaluationShape(24, 2, "data.test", "x", "x"), EvaluationShape(48, 2, "data.dev", "y", "y"))
    with pytest.raises(UsageError) as caught:
        preflight_evaluation(Full(), step, step.start(), [*shapes], rows=8)
    assert str(caught.value) == (
        "out of memory while trying the evaluation of a batch of 8 rows x 48 frames x 2 labels (data.dev, its longest utterance 'y') "
        f"before the first step: RESOURCE_EXHAUSTED: 4 GiB. {DEV_ADVICE}"
    )


def test_a_shape_is_told_with_its_longest_utterance_and_the_one_with_most_labels():
    (shape,) = build.evaluation_shapes(
        batcher([48, 36, 24], ("lecture", "list", "short"), labels=[2, 9, 4]), "data.dev"
    )
    assert (shape.frames, shape.labels) == (48, 9)
    assert str(shape) == "data.dev, its longest utterance 'lecture', the one with most labels 'list'"
    # Of several with most labels the longest, which is named already.
    (shape,) = build.evaluation_shapes(batcher([48, 36], ("lecture", "list"), labels=[9, 9]), "data.dev")
    assert str(shape) == "data.dev, its longest utterance 'lecture'"


def test_equal_shapes_of_dev_and_test_are_tried_once_and_told_together():
    class Planner:
        tried = 0

        def planned_bytes(self, *_):
            self.tried += 1
            return 5 << 20

        def logits(self, weights, statistics, batch):
            return batch.features, batch.num_frames

    step, planner = make_step(), Planner()
    shapes = [
        EvaluationShape(48, 2, f"data.{split}", f"{split} {n}", f"{split} {n}")
        for split in ("dev", "test")
        for n in "12"
    ]
    (need,) = preflight_evaluation(planner, step, step.start(), shapes, rows=8, free=lambda _: 5 << 20)
    assert (need.source, need.bytes_planned, planner.tried) == ("data.dev and data.test", 5 << 20, 1)
    with pytest.raises(UsageError) as caught:
        preflight_evaluation(planner, step, step.start(), shapes, rows=8, free=lambda _: 1 << 20)
    named = "; ".join(f"{shape.source}, its longest utterance {shape.longest!r}" for shape in shapes)
    assert f"x 2 labels ({named}) needs about 5.0 MiB, 1.0 MiB are free. " in str(caught.value)
    assert str(caught.value).endswith(evaluation_advice(["data.dev", "data.test"]))


def test_a_refusal_of_the_allocator_says_what_was_done_what_it_said_and_what_helps():
    said = r"^out of memory while trying it: RESOURCE_EXHAUSTED: .*bytes\. What helps: more"
    with pytest.raises(UsageError, match=said), explaining_lack_of_memory(lambda: "trying it"):
        jnp.zeros((1 << 45,), jnp.float32)
    said = "out of memory while loading: no more memory"
    with pytest.raises(UsageError, match=said), explaining_lack_of_memory(lambda: "loading"):
        raise MemoryError
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), explaining_lack_of_memory(lambda: "trying it"):
        raise jax.errors.JaxRuntimeError("INTERNAL: a kernel crashed")


def test_a_need_names_its_shape():
    assert str(Need(16, 840, 60, None)) == "a batch of 16 rows x 840 frames x 60 labels"
