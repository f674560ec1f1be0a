"""Test settings are stricter than run settings.

Eight CPU devices and a pinned thread pool (set before JAX starts), strict dtype promotion (a hidden widening is a bug in
this project), rank promotion raises, and every jaxtyping annotation in `dsrun` is checked by beartype.
"""

import os
import tempfile

from dsrun.record.runtime import configure_runtime

# One program is compiled once a session, however many tests, workers and processes of the command line ask for it: most of the suite's
# time is compilation. JAX reads these names when it is imported.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="dsrun-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

configure_runtime(devices=8)

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(
    [
        f"dsrun.{room}"
        for room in ("arithmetic", "kernels", "model", "ctc", "speech", "training", "evaluation", "deploy")
    ],
    "beartype.beartype",
)

import jax  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
