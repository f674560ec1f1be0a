"""One compilation serves every device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.training.program import Program


def counted(function):
    """The function, and how often it was traced."""
    traces = []

    def traced(*args):
        traces.append(1)
        return function(*args)

    return traced, traces


def compilations(monkeypatch):
    """Grows by one with every program that XLA compiles."""
    from jax._src import compiler

    found, original = [], compiler.backend_compile_and_load

    def compile_and_load(*args, **options):
        found.append(1)
        return original(*args, **options)

    monkeypatch.setattr(compiler, "backend_compile_and_load", compile_and_load)
    return found


@pytest.mark.parametrize("cache", [False, True], ids=["in memory", "by the compilation cache"])
def test_four_devices_run_what_was_compiled_once(cache, tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path) if cache else None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    from jax._src import compilation_cache

    compilation_cache.reset_cache()
    try:
        seen = compilations(monkeypatch)
        program = Program(lambda x, w: (jnp.tanh(x @ w).sum(), x + 1), donate_argnums=0, devices=4)
        results = []
        for device in jax.devices()[:4]:
            x, w = jax.device_put((np.ones((5, 7), np.float32), np.full((7, 3), 0.1, np.float32)), device)
            results.append(program(device, x, w))
            assert results[-1][0].device == device
            assert x.is_deleted(), "donated"
        assert len({np.asarray(total).tobytes() for total, _ in results}) == 1
        assert len(seen) == 1
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        compilation_cache.reset_cache()


def test_another_shape_is_another_program():
    traced, traces = counted(lambda x: x * 2)
    program = Program(traced, devices=2)
    for length in (3, 4, 3):
        for device in jax.devices()[:2]:
            x = jax.device_put(np.arange(length, dtype=np.float32), device)
            np.testing.assert_array_equal(program(device, x, shape=length), 2 * np.arange(length))
    assert len(traces) >= 2
