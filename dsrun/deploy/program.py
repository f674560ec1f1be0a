"""Program: the forward pass as StableHLO, compiled anywhere that JAX runs, without this project.

`jax.export` keeps the whole pass, from normalised features to logits, with the batch and the number of frames left open (symbolic). Its
first argument is the arrays of `weights.npz` by name, as they are stored; the unpacking is in the program. So

    program = jax.export.deserialize(bytes)
    logits, output_frames = program.call(arrays, features, num_frames)

is all that a user's script needs. The program is for CPUs and CUDA devices; a version of JAX promises to read what was written up to six
months before.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.deploy.network import Network, logits
from dsrun.deploy.storage import Shapes, unpack

PLATFORMS = ("cpu", "cuda")


def build_program(network: Network, stored: Mapping[str, np.ndarray], shapes: Shapes) -> bytes:
    """The serialized program for arrays like `stored`."""

    def run(stored: Any, features: Any, num_frames: Any) -> Any:
        return logits(network, unpack(network, stored, shapes), features, num_frames)

    batch, frame = jax.export.symbolic_shape("batch, frame")
    features = jax.ShapeDtypeStruct((batch, frame, network.settings.num_bins), jnp.float32)
    arrays = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in stored.items()}
    program = jax.export.export(jax.jit(run), platforms=PLATFORMS)
    with _without_places():
        return bytes(program(arrays, features, jax.ShapeDtypeStruct((batch,), jnp.int32)).serialize())


@contextmanager
def _without_places() -> Iterator[None]:
    """Leave out where in which file each operation was written: paths of this machine, and other bytes for every caller."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
