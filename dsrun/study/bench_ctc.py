"""How fast CTC is: the loss and its gradient with respect to the logits, as training computes them with any choice of `kernels.ctc`.

All utterances have all frames and all labels, neighbouring labels differ, logits are normal with deviation 3. Operations are
counted by `flops.ctc_work`; the bound that matters more is the logits read and the gradient written. Between the two lies what
the recursion costs: its frames follow one another, each with little to do.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.arithmetic import FLOAT32_POLICY
from dsrun.ctc import CtcKernel, auto_kernel, ctc_loss, describe_auto_ctc, describe_ctc
from dsrun.errors import UsageError
from dsrun.study.bench_sizes import CtcSize
from dsrun.study.ceilings import Ceilings, machine_facts
from dsrun.study.flops import CTC_OPERATIONS_A_CELL, CTC_OPERATIONS_A_LOGIT, ctc_work
from dsrun.study.stopwatch import TURN_SECONDS, announce, compile_program, peak_memory, summary, take_turns

COUNTED = f"{CTC_OPERATIONS_A_CELL} operations for each of 2 labels + 1 states a frame, {CTC_OPERATIONS_A_LOGIT} for each logit"


Choice = Literal["scan", "auto", "mosaic"]


def bench_ctc(
    sizes: Sequence[CtcSize], *, repeats: int, kernel: Choice = "scan", ceilings: Ceilings | None = None
) -> dict[str, Any]:
    """A row a size, and the ceilings that they were measured beside.

    Raises:
        UsageError: a GPU's kernel without a GPU.
    """
    device = jax.devices()[0]
    if kernel == "mosaic" and device.platform != "gpu":
        raise UsageError(
            f"--kernel is mosaic, which is for NVIDIA GPUs; JAX runs on {device.platform} here. Write scan or auto."
        )
    limits = ceilings or Ceilings(["float32"], [device])
    rows: list[dict[str, Any]] = []
    all_times: dict[str, list[float]] = {name: [] for name in limits.calls}
    for size in sizes:
        announce(f"ctc {size}: compiling, then {repeats} rounds")
        problem = jax.device_put(ctc_problem(size))
        walk, lattice = _lattice(kernel, device, size.labels)
        program = compile_program(partial(loss_and_gradient, kernel=walk), *problem)
        times = take_turns({**limits.calls, "ctc": partial(program, *problem)}, repeats, turn_seconds=TURN_SECONDS)
        for name in all_times:
            all_times[name] += times[name]
        work = ctc_work(size)
        found = summary(times["ctc"])
        rows.append(
            {
                "size": str(size),
                **asdict(size),
                "format": "float32",
                "kernel": walk,
                "lattice": lattice,
                **found,
                "microseconds_a_frame": 1e6 * found["seconds_median"] / size.frames,
                **limits.figures(times, "ctc", work, "float32"),
                "operations": COUNTED,
                "compile_seconds": program.compile_seconds,
                "planned_memory_bytes": program.planned_bytes,
            }
        )
    facts = {
        "benchmark": "ctc",
        "machine": machine_facts([device]),
        "ceilings": limits.report(all_times),
    }
    return {**facts, "rows": rows, **peak_memory(device)}


def _lattice(choice: Choice, device: jax.Device, labels: int) -> tuple[CtcKernel, str]:
    """What walks it, and that in words."""
    if choice != "auto":
        return choice, describe_ctc(FLOAT32_POLICY, choice)
    kernel = auto_kernel(FLOAT32_POLICY, [device], labels=labels)
    return kernel, describe_auto_ctc(FLOAT32_POLICY, kernel, [device], labels=labels)


def loss_and_gradient(
    logits: Any, num_frames: Any, labels: Any, num_labels: Any, *, kernel: CtcKernel = "scan"
) -> tuple[Any, Any]:
    """Loss of each utterance, and the gradient of their sum."""
    loss, pull = jax.vjp(lambda x: ctc_loss(x, num_frames, labels, num_labels, kernel=kernel), logits)
    return loss, pull(jnp.ones_like(loss))[0]


def ctc_problem(size: CtcSize) -> tuple[np.ndarray, ...]:
    """Logits, lengths, labels, numbers of labels."""
    random = np.random.default_rng(0)
    logits = random.standard_normal((size.batch, size.frames, size.classes), np.float32) * np.float32(3)
    # Steps of 1 to classes - 2 around the circle of the classes - 1 labels: neighbours differ, so every size has an alignment.
    steps = random.integers(1, size.classes - 1, (size.batch, size.labels))
    labels = (1 + np.cumsum(steps, axis=1) % (size.classes - 1)).astype(np.int32)
    full = np.ones(size.batch, np.int32)
    return logits, full * size.frames, labels, full * size.labels
