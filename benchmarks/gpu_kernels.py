"""Part of the GPU report: are the Mosaic kernels right on this device, and then, are they fast. `ctc` or `gru` says which.

    python -m benchmarks.gpu_kernels ctc|gru [--tiny]

The interpreter of the tests knows nothing of registers and barriers, and a GPU may be of a new kind. So correctness is first and
each kernel is a process of its own. CTC: the total of each utterance (by both kernels, the one that keeps nothing too) and the
occupancy of each label are the scan's bits, the same call again has the same ones, and the gradient's error is measured against
float64. A ragged problem is first: no frames, no labels, nothing that aligns, padding. GRU: every frame is computed again in float64
from the kernel's own state before it, so that one rounding cannot spread; then all states are compared with the scan's. Without a GPU
(`--tiny`) the kernels are interpreted at toy sizes, to try this file, and not timed.
"""

import sys
from functools import partial
from typing import Any

import numpy as np

from benchmarks.ctc_problem import Problem, exact, loss_and_gradient, random_problem
from benchmarks.gpu_parts import Settings, beside, part_settings, reason, row, spread
from benchmarks.turns import ratio
from dsrun.record.runtime import configure_runtime

# More label columns than `kernels.ctc: auto` gives the kernel: what a GPU shows here may raise that limit.
MANY_LABELS = (16, 800, 400, 29)
CTC_SIZES = (
    (4, 150, 40, 29),
    (16, 400, 80, 29),
    (32, 800, 150, 29),
    (16, 400, 40, 4000),
    (128, 475, 100, 29),
    MANY_LABELS,
)
TINY_CTC_SIZES = ((2, 12, 4, 7),)
RAGGED_SIZE, TINY_RAGGED_SIZE = (16, 400, 80, 29), (6, 12, 4, 7)
GRU_SIZES = ((64, 200, 800), (64, 200, 1760), (128, 200, 2560))  # a frame costs the same however many there are
TINY_GRU_SIZES = ((3, 3, 24),)
CHECKED = 4  # utterances whose gradient is computed in float64
ROUNDS = 7
NOT_TIMED = "not timed: interpreted on a CPU"


# --- CTC ---------------------------------------------------------------------------------------------------------------------------


def ctc(settings: Settings) -> None:
    """Bits, errors and times, size by size."""
    ragged, full = (TINY_RAGGED_SIZE, TINY_CTC_SIZES) if settings.tiny else (RAGGED_SIZE, CTC_SIZES)
    for size, is_ragged in ((ragged, True), *((size, False) for size in full)):
        name = f"CTC kernel {'x'.join(map(str, size))}{' ragged' if is_ragged else ''}"
        if not settings.covers(name, 4):
            continue
        try:
            problem = _full_problem(size)
            problem = ragged_problem(problem) if is_ragged else problem
            ctc_bits(name, problem, "interpreter" if settings.tiny else "cuda")
            calls = ctc_gradients(name, problem, "interpreted" if settings.tiny else "mosaic")
            if settings.tiny:
                row(f"{name} time", NOT_TIMED)
            elif not is_ragged:
                ctc_times(name, problem, calls)
        except Exception as error:  # the next size may still run
            row(name, f"FAILED: {reason(error)}")


def _full_problem(size: tuple[int, ...]) -> Problem:
    utterances, frames, labels, classes = size
    return random_problem(
        utterances=utterances, frames=frames, labels=labels, classes=classes, deviation=3.0, confidence=0.0, seed=1
    )


def ragged_problem(full: Problem) -> Problem:
    """Frames and labels from none to all, NaN in the padding: no frames and no labels, labels without frames, frames without labels, one
    label in one frame, all frames with all labels; the others by chance. Where labels are too many for the frames nothing aligns.
    """
    count, frames = full.logits.shape[:2]
    labels = full.labels.shape[1]
    rng = np.random.default_rng(2)
    num_frames, num_labels = (rng.integers(0, most + 1, count).astype(np.int32) for most in (frames, labels))
    corners = ((0, 0), (0, labels), (frames // 2, 0), (1, 1), (labels - 1, labels), (frames, labels))
    for i, corner in enumerate(corners):
        num_frames[i], num_labels[i] = corner
    logits = full.logits.copy()
    logits[np.arange(frames)[None, :] >= num_frames[:, None]] = np.nan
    return Problem(logits, num_frames, full.labels, num_labels)


def has_alignment(problem: Problem) -> np.ndarray:
    """Of each utterance: a frame for each label and one more between equal neighbours."""
    rows = zip(problem.labels, problem.num_labels, strict=True)
    needed = [count + int(np.sum(ids[1:count] == ids[: max(count - 1, 0)])) for ids, count in rows]
    return np.asarray(needed) <= problem.num_frames


def ctc_bits(name: str, problem: Problem, target: Any) -> None:
    """The kernels' totals and occupancies beside the scan's, from the same emissions, and beside their own, called again."""
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
    both, alone = (jax.jit(partial(run, target=target)) for run in (kernel.total_and_occupancies, kernel.total))
    calls = jax.device_get([(both(*inputs), alone(*inputs)) for _ in range(2)])
    total, in_label = jax.device_get((total, in_label))
    aligned = has_alignment(problem)  # without an alignment occupancies mean nothing, and a total is any dead cell
    (found, occupancies), found_alone = calls[0]
    pairs = {
        "totals' mantissas": (found.mantissa[aligned], total.mantissa[aligned]),
        "totals' exponents": (found.exponent[aligned], total.exponent[aligned]),
        "label occupancies": (occupancies.in_label[:, aligned], in_label[:, aligned]),
        "mantissas of the total alone": (found_alone.mantissa[aligned], total.mantissa[aligned]),
        "exponents of the total alone": (found_alone.exponent[aligned], total.exponent[aligned]),
    }
    alive = {"with occupancies": found.exponent, "alone": found_alone.exponent, "by the scan": total.exponent}
    pairs |= {f"totals without an alignment, {what}": (x > kernel.DEAD // 2, aligned) for what, x in alive.items()}
    words = "bits of totals, by both kernels, and label occupancies are the scan's"
    if not aligned.all():
        words += f"; {np.sum(~aligned)} of {aligned.size} utterances have no alignment"
    _bits_row(f"{name} bits", pairs, words)
    again = {f"array {i}": pair for i, pair in enumerate(zip(*map(jax.tree.leaves, calls), strict=True))}
    _bits_row(f"{name} again", again, "the same call has the same bits")


def _bits_row(case: str, pairs: dict[str, tuple[np.ndarray, np.ndarray]], words: str) -> None:
    """FAIL, with what differs in a bit and how often, or these words."""
    differing = {what: int(np.sum(_bytes(a) != _bytes(b))) for what, (a, b) in pairs.items()}
    wrong = [f"{count} of {pairs[what][1].size} {what}" for what, count in differing.items() if count]
    row(case, "FAIL: other bits: " + ", ".join(wrong) if wrong else words, differing=differing)


def _bytes(x: np.ndarray) -> np.ndarray:
    """As integers: NaN equals itself, and 0 is not -0."""
    return x.view(np.int32) if x.dtype == np.float32 else x


def ctc_gradients(name: str, problem: Problem, walk: Any) -> dict[str, Any]:
    """Loss and gradient by scan and kernel: losses' bits, the kernel's own again, errors against float64. Returns the calls."""
    import jax

    from dsrun.ctc import ctc_loss

    arrays = jax.device_put(tuple(problem))
    calls = {
        label: partial(jax.jit(partial(loss_and_gradient, partial(ctc_loss, kernel=kernel))), *arrays)
        for label, kernel in (("scan", "scan"), ("kernel", walk))
    }
    (scan_loss, scan), (loss, gradient), again = (
        jax.device_get(calls[label]()) for label in ("scan", "kernel", "kernel")
    )
    _bits_row(f"{name} loss", {"losses": (loss, scan_loss)}, "bits are the scan's")
    pairs = {"losses": (again[0], loss), "gradients": (again[1], gradient)}
    _bits_row(f"{name} gradient again", pairs, "the same call has the same bits")
    aligned = has_alignment(problem)
    padding = (np.arange(gradient.shape[1])[None, :] >= problem.num_frames[:, None]) | ~aligned[:, None]
    if padding.any():
        found = gradient[padding]
        words = "gradient is 0 in padded frames and without an alignment"
        _bits_row(f"{name} padding", {"gradients": (found + np.float32(0), np.zeros_like(found))}, words)
    checked = [i for i in np.flatnonzero(aligned) if problem.num_frames[i]][:CHECKED]
    truths = {i: exact(Problem(*(array[i : i + 1] for array in problem)))[1][0] for i in checked}
    errors = {
        label: float(max(np.max(np.abs(found[i, : len(truth)] - truth)) for i, truth in truths.items()))
        for label, found in (("scan", scan), ("kernel", gradient))
    }
    words = f"{errors['kernel']:.1e}; scan {errors['scan']:.1e}"
    row(f"{name} gradient error", words if errors["kernel"] < 1e-4 else f"FAIL: {words}", **errors)
    return calls


def ctc_times(name: str, problem: Problem, calls: dict[str, Any]) -> None:
    """The kernel's time beside the scan's."""
    times = _times(calls)
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
