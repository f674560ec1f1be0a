"""How accurate CTC's gradient is: dsrun, optax and (where it can be imported) PyTorch against float64.

The claim it checks: log space alone does not make CTC accurate. 32 utterances of 800 frames, labels of 75 to 150, 29
classes, logits of standard deviation 3; the largest absolute error of the gradient with respect to the logits over
all frames, utterances and classes, and the largest relative error of the loss, against a float64 forward-backward in
NumPy.

    python -m benchmarks.ctc_accuracy [--times 9] [--json]
    python -m benchmarks.ctc_accuracy --frames 200 --labels 40 --formats float16 bfloat16 [--confidence 8]

With --formats it adds plain log space with every result rounded to those formats, as the role `ctc` asks for. The gradient's
direction is shown too, as the cosine with the true one. With --confidence C the logits are those of a network late in training:
C is added along one alignment of each utterance, its labels evenly spread with blanks between them.

With --times N it also measures the median time of loss and gradient together, compiled and warm, the contenders
taking turns. PyTorch is never timed here: its threads and XLA's disturb one another in one process. Times on a shared
machine are good for ratios within one run and for nothing else.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial

from dsrun.record.runtime import configure_runtime

configure_runtime()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from dsrun.arithmetic import parse_format  # noqa: E402
from dsrun.ctc import ctc_loss  # noqa: E402
from dsrun.ctc.log_space import log_space_ctc_loss  # noqa: E402
from tests.reference.ctc import forward_backward  # noqa: E402


@dataclass(frozen=True)
class Problem:
    """One batch: logits [batch, output_frame, class], the rest as `ctc_loss` takes it."""

    logits: np.ndarray
    num_frames: np.ndarray
    labels: np.ndarray
    num_labels: np.ndarray


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    contender: str
    gradient_error: float
    gradient_cosine: float
    loss_error: float
    milliseconds: float | None


LossAndGradient = Callable[..., tuple[jax.Array, jax.Array]]


def random_problem(
    *, utterances: int, frames: int, labels: int, classes: int, deviation: float, confidence: float, seed: int
) -> Problem:
    """Labels of labels/2 to labels, the first of the full length; all frames valid."""
    rng = np.random.default_rng(seed)
    num_labels = rng.integers(labels // 2, labels + 1, utterances).astype(np.int32)
    num_labels[0] = labels
    logits = (rng.standard_normal((utterances, frames, classes)) * deviation).astype(np.float32)
    ids = rng.integers(1, classes, (utterances, labels)).astype(np.int32)
    for row, (own, count) in enumerate(zip(ids, num_labels, strict=True)):
        path = np.zeros(frames, np.int32)
        path[((np.arange(count) + 0.5) * frames / count).astype(np.int32)] = own[:count]
        logits[row, np.arange(frames), path] += np.float32(confidence)
    return Problem(logits, np.full(utterances, frames, np.int32), ids, num_labels)


def loss_and_gradient(loss_of: Callable[..., jax.Array], logits, num_frames, labels, num_labels):
    loss, pull = jax.vjp(lambda x: loss_of(x, num_frames, labels, num_labels), logits)
    return loss, pull(jnp.ones_like(loss))[0]


def optax_loss_and_gradient(logits, num_frames, labels, num_labels):
    frame_padding = (jnp.arange(logits.shape[1])[None, :] >= num_frames[:, None]).astype(jnp.float32)
    label_padding = (jnp.arange(labels.shape[1])[None, :] >= num_labels[:, None]).astype(jnp.float32)
    loss, pull = jax.vjp(lambda x: optax.ctc_loss(x, frame_padding, labels, label_padding), logits)
    return loss, pull(jnp.ones_like(loss))[0]


def torch_loss_and_gradient(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """PyTorch's native CPU loss in float32."""
    import torch

    logits = torch.tensor(problem.logits, requires_grad=True)
    log_probs = torch.log_softmax(logits, dim=2).transpose(0, 1)
    lengths = [torch.tensor(x, dtype=torch.int64) for x in (problem.labels, problem.num_frames, problem.num_labels)]
    loss = torch.nn.functional.ctc_loss(log_probs, *lengths, blank=0, reduction="none")
    loss.sum().backward()
    assert logits.grad is not None
    return loss.detach().numpy(), logits.grad.numpy()


def exact(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Loss and gradient in float64."""
    rows = zip(problem.logits, problem.num_frames, problem.labels, problem.num_labels, strict=True)
    pairs = [forward_backward(logits[:frames], labels[:count].tolist()) for logits, frames, labels, count in rows]
    return np.array([loss for loss, _ in pairs]), np.stack([gradient for _, gradient in pairs])


def median_milliseconds(
    contenders: Mapping[str, LossAndGradient], arrays: list[jax.Array], repeats: int
) -> dict[str, float]:
    """Median time of each, taking turns so that a busy minute of the machine meets them all."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, function in contenders.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arrays))
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def measure(problem: Problem, *, repeats: int, formats: list[str]) -> list[Row]:
    """Every contender's errors, and times where `repeats` is positive."""
    losses = {f"log space, {name}": partial(log_space_ctc_loss, format=parse_format(name)) for name in formats}
    contenders = {
        name: jax.jit(partial(loss_and_gradient, loss)) for name, loss in {"dsrun": ctc_loss, **losses}.items()
    }
    contenders["optax"] = jax.jit(optax_loss_and_gradient)
    arrays = [jnp.asarray(x) for x in (problem.logits, problem.num_frames, problem.labels, problem.num_labels)]
    results = {name: jax.device_get(function(*arrays)) for name, function in contenders.items()}
    times = median_milliseconds(contenders, arrays, repeats) if repeats else {}
    if importlib.util.find_spec("torch"):
        results["torch"] = torch_loss_and_gradient(problem)
    loss, gradient = exact(problem)
    return [
        Row(
            contender=name,
            gradient_error=float(np.max(np.abs(found_gradient - gradient))),
            gradient_cosine=cosine(found_gradient, gradient),
            loss_error=float(np.max(np.abs(found_loss - loss) / loss)),
            milliseconds=times.get(name),
        )
        for name, (found_loss, found_gradient) in results.items()
    ]


def cosine(found: np.ndarray, exact: np.ndarray) -> float:
    """Of the angle between the gradients of all utterances with a finite one; NaN where there is none."""
    finite = np.isfinite(found).all(axis=(1, 2))
    a, b = found[finite].astype(np.float64).ravel(), exact[finite].ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b))) if finite.any() else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description="Error of CTC losses and gradients against float64.")
    parser.add_argument("--utterances", type=int, default=32)
    parser.add_argument("--frames", type=int, default=800)
    parser.add_argument("--labels", type=int, default=150)
    parser.add_argument("--classes", type=int, default=29)
    parser.add_argument("--deviation", type=float, default=3.0, help="standard deviation of the logits")
    parser.add_argument("--confidence", type=float, default=0.0, help="added to the logits of one alignment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="*", default=[], help="of CTC in log space, every result rounded")
    parser.add_argument("--times", type=int, default=0, help="repeats of the timing; 0 times nothing")
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args())
    as_json, repeats, formats = (options.pop(name) for name in ("json", "times", "formats"))
    rows = measure(random_problem(**options), repeats=repeats, formats=formats)
    device = str(jax.devices()[0])
    if as_json:
        versions = {"jax": jax.__version__, "optax": optax.__version__}
        json.dump(
            {"problem": options, "device": device, "versions": versions, "rows": [asdict(row) for row in rows]},
            sys.stdout,
        )
        print()
        return
    print(", ".join(f"{key} {value}" for key, value in options.items()) + f"; {device}")
    print(f"{'':20} {'gradient, absolute':>20} {'its cosine':>12} {'loss, relative':>16} {'median ms':>10}")
    for row in rows:
        shown = "" if row.milliseconds is None else f"{row.milliseconds:.1f}"
        errors = f"{row.gradient_error:20.1e} {row.gradient_cosine:12.6f} {row.loss_error:16.1e}"
        print(f"{row.contender:20} {errors} {shown:>10}")


if __name__ == "__main__":
    main()
