"""Part of the GPU report: are the Mosaic kernels right on this device, and then, are they fast. `ctc` or `gru` says which.

    python -m benchmarks.gpu_kernels ctc|gru [--tiny]

The interpreter of the tests knows nothing of registers and barriers, and a GPU may be of a new kind. So correctness is first and
each kernel is a process of its own. CTC: the total of each utterance and the occupancy of each label are the scan's bits, and the
gradient's error is measured against float64. GRU: every frame is computed again in float64 from the kernel's own state before it, so
that one rounding cannot spread; then all states are compared with the scan's. Without a GPU (`--tiny`) the kernels are interpreted at
toy sizes, to try this file, and not timed.
"""

import sys
from functools import partial
from typing import Any

import numpy as np

from benchmarks.ctc_problem import Problem, exact, loss_and_gradient, random_problem
from benchmarks.gpu_parts import Settings, beside, part_settings, reason, row, spread
from benchmarks.turns import ratio
from dsrun.record.runtime import configure_runtime

CTC_SIZES = (
    (4, 150, 40, 29),
    (16, 400, 80, 29),
    (32, 800, 150, 29),
    (16, 400, 40, 4000),
    (128, 475, 100, 29),
    (
        16,
        800,
        400,
        29,
    ),  # more label columns than `kernels.ctc: auto` gives the kernel: what a GPU shows here may raise that limit
)
TINY_CTC_SIZES = ((2, 12, 4, 7),)
GRU_SIZES = ((64, 200, 800), (64, 200, 1760), (128, 200, 2560))  # a frame costs the same however many there are
TINY_GRU_SIZES = ((3, 3, 24),)
CHECKED = 4  # utterances whose gradient is computed in float64
ROUNDS = 7
NOT_TIMED = "not timed: interpreted on a CPU"


# --- CTC ---------------------------------------------------------------------------------------------------------------------------


def ctc(settings: Settings) -> None:
    """Bits, errors and times, size by size."""
    for size in TINY_CTC_SIZES if settings.tiny else CTC_SIZES:
        name = "CTC kernel " + "x".join(map(str, size))
        if not settings.covers(name, 4):
            continue
        try:
            problem = random_problem(
                utterances=size[0],
                frames=size[1],
                labels=size[2],
                classes=size[3],
                deviation=3.0,
                confidence=0.0,
                seed=1,
            )
            ctc_bits(name, problem, "interpreter" if settings.tiny else "cuda")
            ctc_times(name, problem, "interpreted" if settings.tiny else "mosaic")
        except Exception as error:  # the next size may still run
            row(name, f"FAILED: {reason(error)}")


def ctc_bits(name: str, problem: Problem, target: Any) -> None:
    """The kernel's total and occupancies beside the scan's, from the same emissions."""
    import jax

    from dsrun.ctc import loss, mosaic
    from dsrun.ctc.emissions import frame_probabilities
    from dsrun.kernels import ctc as kernel

    @jax.jit
    def scan(logits: Any, num_frames: Any, labels: Any, num_labels: Any) -> Any:
        label = loss._label_columns(labels, num_labels)
        emissions, _ = frame_probabilities(logits, num_frames, label.ids)
        last, prefixes = loss._prefixes(label, emissions, keep=True)
        assert prefixes is not None
        total = loss._total(label, last)
        inputs = mosaic._inputs(emissions, label.no_skip, num_labels)
        return inputs, total, loss._occupancies(label, emissions, prefixes, total)[1]

    inputs, total, in_label = scan(*problem)
    found, occupancies = jax.jit(partial(kernel.total_and_occupancies, target=target))(*inputs)
    total, found, in_label, occupancies = jax.device_get((total, found, in_label, occupancies))
    pairs = {
        "totals' mantissas": (found.mantissa, total.mantissa),
        "totals' exponents": (found.exponent, total.exponent),
        "label occupancies": (occupancies.in_label, in_label),
    }
    differing = {what: int(np.sum(a != b)) for what, (a, b) in pairs.items()}
    wrong = [f"{count} of {pairs[what][1].size} {what}" for what, count in differing.items() if count]
    words = (
        "FAIL: other than the scan's: " + ", ".join(wrong)
        if wrong
        else "bits of totals and label occupancies are the scan's"
    )
    row(f"{name} bits", words, differing=differing)


def ctc_times(name: str, problem: Problem, walk: Any) -> None:
    """Error against float64 of both, and the kernel's time beside the scan's."""
    import jax

    from dsrun.ctc import ctc_loss

    arrays = jax.device_put(tuple(problem))
    programs = {
        label: jax.jit(partial(loss_and_gradient, partial(ctc_loss, kernel=kernel)))
        for label, kernel in (("scan", "scan"), ("kernel", walk))
    }
    _, truth = exact(Problem(*(array[:CHECKED] for array in problem)))
    errors = {}
    for label, program in programs.items():
        gradient = np.asarray(program(*arrays)[1])[: len(truth)]
        errors[label] = float(np.max(np.abs(gradient - truth)))
    words = f"{errors['kernel']:.1e}; scan {errors['scan']:.1e}"
    row(f"{name} gradient error", words if errors["kernel"] < 1e-4 else f"FAIL: {words}", **errors)
    if walk == "interpreted":
        row(f"{name} time", NOT_TIMED)
        return
    times = _times({label: partial(program, *arrays) for label, program in programs.items()})
    found = ratio(times["kernel"], times["scan"])
    words = f"{spread(times['kernel'], 1e3, 'ms')}, {1e6 * np.median(times['kernel']) / problem.logits.shape[1]:.2f} us a frame; "
    row(f"{name} time", words + beside(found, "the scan"), time_over_the_scans=found, **times)


def _times(calls: dict[str, Any]) -> dict[str, list[float]]:
    """Medians in turn; a call is queued so often that a unit takes a twentieth of a second, and waited for."""
    from dsrun.study.stopwatch import TURN_SECONDS, take_turns

    return take_turns(calls, ROUNDS, turn_seconds=TURN_SECONDS)


# --- GRU ---------------------------------------------------------------------------------------------------------------------------


def gru(settings: Settings) -> None:
    """Frames against float64, states and times against the scan."""
    target = "interpreter" if settings.tiny else "cuda"
    for size in TINY_GRU_SIZES if settings.tiny else GRU_SIZES:
        for format in ("bfloat16", "float16"):
            name = f"GRU kernel {'x'.join(map(str, size))} {format}"
            if not settings.covers(name, 5):
                continue
            try:
                gru_case(name, size, format, target)
            except Exception as error:  # the next size may still run
                row(name, f"FAILED: {reason(error)}")


def gru_case(name: str, size: tuple[int, ...], format: str, target: Any) -> None:
    """One size and format, every tile."""
    import jax
    import jax.numpy as jnp

    from dsrun.kernels.gru import gru_states
    from dsrun.model.gru import gru_sequences
    from dsrun.study.bench_gru import gru_policy

    own, theirs, is_valid = gru_problem(*size, jnp.dtype(format))
    projections, recurrences = theirs
    policy = gru_policy(format)
    layer = jax.jit(partial(gru_sequences, policy=policy, loops="together"))
    scan = partial(layer, projections, is_valid[:, :, None], recurrences)

    def kernel(tile: int) -> Any:
        run = partial(
            gru_states, directions=("forward", "backward"), compute=jnp.dtype(format), storage=jnp.dtype(format)
        )
        return jax.jit(partial(run, target=target, tile=tile))

    expected = np.stack([np.asarray(h, np.float32) for h in scan()], axis=1)
    programs: dict[str, Any] = {"scan": scan}
    for tile in (16, 32, 64) if target == "cuda" else (32,):
        label = f"{name} tile {tile}"
        try:
            program = partial(kernel(tile), own[0], is_valid, own[1])
            found = np.asarray(program().h)
        except Exception as error:  # another tile may still compile
            row(label, f"FAILED: {reason(error)}")
            continue
        gru_check(label, found, expected, own, format)
        programs[label] = program
    if target != "cuda":
        row(f"{name} time", NOT_TIMED)
        return
    times = _times(programs)
    row(f"{name} scan", f"{spread(times['scan'], 1e6 / size[1], 'us a frame')}, forward only", seconds=times["scan"])
    for label in list(times)[1:]:
        found_ratio = ratio(times[label], times["scan"])
        words = f"{spread(times[label], 1e6 / size[1], 'us a frame')}; {beside(found_ratio, 'the scan')} (which keeps no gates here)"
        row(f"{label} time", words, seconds=times[label], time_over_the_scans=found_ratio)


def gru_problem(batch: int, frames: int, hidden: int, dtype: Any) -> tuple[Any, Any, Any]:
    """The kernel's arguments and the scan's, all frames valid, weights of the size that trained networks have."""
    import jax
    import jax.numpy as jnp

    from dsrun.kernels.gru import Gates as KernelGates
    from dsrun.kernels.gru import Recurrence as KernelRecurrence
    from dsrun.model.gru import Gates, Recurrence

    keys = jax.random.split(jax.random.key(0), 7)
    x = [jax.random.normal(key, (frames, 2, batch, hidden), jnp.float32).astype(dtype) for key in keys[:3]]
    u = [jax.random.normal(key, (2, hidden, hidden), jnp.float32) / np.float32(hidden**0.5) for key in keys[3:6]]
    u = [matrix.astype(dtype).astype(jnp.float32) for matrix in u]  # on the grid: both sides read the same
    bias = jax.random.normal(keys[6], (2, hidden), jnp.float32).astype(dtype).astype(jnp.float32)
    projections = [Gates(*(gate[:, d] for gate in x)) for d in range(2)]
    recurrences = [Recurrence(*(matrix[d] for matrix in u), bias[d]) for d in range(2)]
    is_valid = jnp.ones((frames, batch), bool)
    return (KernelGates(*x), KernelRecurrence(*u, bias)), (projections, recurrences), is_valid


def gru_check(label: str, found: np.ndarray, expected: np.ndarray, own: Any, format: str) -> None:
    """Three frames against float64 from the kernel's own state before them, one rounding allowed; all frames beside the scan."""
    spacing = {"bfloat16": 2.0**-7, "float16": 2.0**-10}[format]
    frames = len(found)
    errors = [
        np.max(np.abs(found[t, d] - gru_frame(found, own, t, d)))
        for t in {0, frames // 2, frames - 1}
        for d in range(2)
    ]
    error, difference = float(np.max(errors)), float(np.max(np.abs(found - expected)))
    share = float(np.mean(found != expected))
    words = (
        f"a frame's error {error:.1e}, {error / spacing:.2f} of {format}'s ulp at 1; from the scan's states at most {difference:.1e}, "
        f"{share:.1%} of them differ"
    )
    # A state is below 1 in size, where an ulp is half of that at 1, and rounded once; the rest is the noise of float32 sums.
    is_right = error <= 0.27 * spacing
    row(label, words if is_right else f"FAIL: {words}", error=error, difference=difference, share_differing=share)


def gru_frame(found: np.ndarray, own: Any, frame: int, direction: int) -> np.ndarray:
    """The state after a frame in float64, from the one that the kernel had before it."""
    x, weights = own
    before = frame - 1 if direction == 0 else frame + 1
    is_start = not 0 <= before < len(found)
    h = np.zeros(found.shape[2:]) if is_start else found[before, direction].astype(np.float64)
    x_r, x_z, x_n = (np.asarray(gate[frame, direction]).astype(np.float64) for gate in x)
    u_r, u_z, u_n = (np.asarray(matrix[direction]).astype(np.float64) for matrix in weights[:3])
    r, z = (1 / (1 + np.exp(-(gate + h @ u))) for gate, u in ((x_r, u_r), (x_z, u_z)))
    n = np.tanh(x_n + r * (h @ u_n + np.asarray(weights.b_n[direction]).astype(np.float64)))
    return n + z * (h - n)


def main() -> None:
    """The kernel that the first argument names."""
    which, *arguments = sys.argv[1:]
    settings = part_settings(__doc__, arguments)
    configure_runtime()
    {"ctc": ctc, "gru": gru}[which](settings)


if __name__ == "__main__":
    main()
