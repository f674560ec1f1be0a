"""Test settings are stricter than run settings.

Eight CPU devices and a pinned thread pool (set before JAX starts), strict dtype promotion (a hidden widening is a bug in
this project), rank promotion raises, and every jaxtyping annotation in `dsrun` is checked by beartype.
"""

import tempfile

from dsrun.record.runtime import configure_runtime

configure_runtime(devices=8)

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(
    [f"dsrun.{room}" for room in ("arithmetic", "model", "ctc", "speech", "training", "evaluation")],
    "beartype.beartype",
)

import jax  # noqa: E402

# One program is compiled once a session, however many tests make it: most of the suite's time is compilation.
_cache = tempfile.TemporaryDirectory(prefix="dsrun-compiled-")
jax.config.update("jax_compilation_cache_dir", _cache.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
