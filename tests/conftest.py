"""Test settings are stricter than run settings.

Eight CPU devices and a pinned thread pool (set before JAX starts), strict dtype promotion (a hidden widening is a bug in
this project), rank promotion raises, and every jaxtyping annotation in `dsrun` is checked by beartype.
"""

from dsrun.record.runtime import configure_runtime

configure_runtime(devices=8)

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(
    [f"dsrun.{room}" for room in ("arithmetic", "model", "ctc", "speech", "training", "evaluation")],
    "beartype.beartype",
)

import jax  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
