"""The largest batch shape is tried before the first step: what is tried, that nothing changes, and what is said where it does not fit."""

import jax
import jax.numpy as jnp
import pytest

from dsrun.errors import UsageError
from dsrun.training.preflight import Need, explaining_lack_of_memory, largest_shapes, preflight
from dsrun.training.step import split_batch
from tests.training.test_step import bits, make_batch, make_step


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
