"""Where a kernel runs: compiled for an NVIDIA GPU, or interpreted on the CPU.

Pallas Mosaic GPU has an interpreter: a kernel's loads and stores are calls back to Python, its arithmetic is the CPU's,
one block after another. It takes tens of microseconds for what a GPU does in nanoseconds, and knows nothing of threads
inside a block and of their barriers; but it computes the same numbers, and shared memory that was never written reads as
NaN. The tests use it; nothing else should.

Two rules for kernels in this room, which the interpreter would not teach (JAX 0.10.2 and 0.11.2):

- Warpgroup semantics, said aloud (the default from JAX 0.11 on). Under Lane semantics `jnp.where(c, 0, e)` on int32 takes
  its signedness from c, a boolean, and the next maximum compares unsigned: a negative exponent wins.
- One element of a row for each thread and register, said aloud. The default takes two where it can, and a pair read one
  column further on is not aligned to its size.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu

# The size of a warpgroup, which Mosaic calls one thread: arrays are multiples of it.
THREADS = 128

Target = Literal["cuda", "interpreter"]

COMPILER = plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup)


def interpretation(target: Target) -> Any:
    """The argument `interpret` of `plgpu.kernel`."""
    if target == "cuda":
        return None
    if hasattr(plgpu, "InterpretGPUParams"):
        return plgpu.InterpretGPUParams()
    # JAX 0.10 has it, but not in public.
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams()


def one_a_thread(target: Target, size: int) -> Callable[[jax.Array], jax.Array]:
    """A function that lays a row of `size` elements over the threads, element i at thread i modulo 128."""
    if target == "interpreter":
        # It has no registers, and no rule for laying out an array in them.
        return lambda row: row
    layout = plgpu.Layout.WG_STRIDED((size,), vec_size=1)
    return lambda row: plgpu.layout_cast(row, layout)


def read_global(target: Target) -> Callable[[Any, Any], jax.Array]:
    """A function of (ref, index) that reads global memory into whatever layout its use asks for.

    A plain `ref[index]` must have a load that Mosaic calls optimized, and from global memory to a tensor core's layout it
    has none: a thread reads pairs.
    """
    if target == "interpreter":
        return lambda ref, index: ref[index]
    if jax.__version_info__ < (0, 11):
        return lambda ref, index: plgpu.load(ref, index, optimized=False)
    load: Any = plgpu.load  # its index has no default in 0.10
    return lambda ref, index: load(ref.at[index], optimized=False)
