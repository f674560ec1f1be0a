"""How accurate CTC's gradient is: dsrun, optax and (where it can be imported) PyTorch against float64.

The claim it checks: log space alone does not make CTC accurate. 32 utterances of 800 frames, labels of 75 to 150, 29
classes, logits of standard deviation 3; the largest absolute error of the gradient with respect to the logits over
all frames, utterances and classes, and the largest relative error of the loss, against a float64 forward-backward in
NumPy.

    python -m benchmarks.ctc_accuracy [--json]
    python -m benchmarks.ctc_accuracy --frames 200 --labels 40 --formats float16 bfloat16 [--confidence 8]

With --formats it adds plain log space with every result rounded to those formats, as the role `ctc` asks for. The gradient's
direction is shown too, as the cosine with the true one. With --confidence C the logits are those of a network late in training:
C is added along one alignment of each utterance, its labels evenly spread with blanks between them.

Times are the business of `benchmarks.ctc`.
"""

import argparse
import importlib.util
import json
import sys
from dataclasses import asdict, dataclass
from functools import partial

from dsrun.record.runtime import configure_runtime

configure_runtime()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from benchmarks.ctc_problem import (  # noqa: E402
    Problem,
    exact,
    loss_and_gradient,
    optax_loss_and_gradient,
    random_problem,
)
from dsrun.arithmetic import parse_format  # noqa: E402
from dsrun.ctc import ctc_loss  # noqa: E402
from dsrun.ctc.log_space import log_space_ctc_loss  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    contender: str
    gradient_error: float
    gradient_cosine: float
    loss_error: float


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


def measure(problem: Problem, *, formats: list[str]) -> list[Row]:
    """Every contender's errors."""
    losses = {f"log space, {name}": partial(log_space_ctc_loss, format=parse_format(name)) for name in formats}
    contenders = {
        name: jax.jit(partial(loss_and_gradient, loss)) for name, loss in {"dsrun": ctc_loss, **losses}.items()
    }
    contenders["optax"] = jax.jit(optax_loss_and_gradient)
    arrays = [jnp.asarray(x) for x in problem]
    results = {name: jax.device_get(function(*arrays)) for name, function in contenders.items()}
    if importlib.util.find_spec("torch"):
        results["torch"] = torch_loss_and_gradient(problem)
    loss, gradient = exact(problem)
    return [
        Row(
            contender=name,
            gradient_error=float(np.max(np.abs(found_gradient - gradient))),
            gradient_cosine=cosine(found_gradient, gradient),
            loss_error=float(np.max(np.abs(found_loss - loss) / loss)),
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
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args())
    as_json, formats = (options.pop(name) for name in ("json", "formats"))
    rows = measure(random_problem(**options), formats=formats)
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
    print(f"{'':20} {'gradient, absolute':>20} {'its cosine':>12} {'loss, relative':>16}")
    for row in rows:
        errors = f"{row.gradient_error:20.1e} {row.gradient_cosine:12.6f} {row.loss_error:16.1e}"
        print(f"{row.contender:20} {errors}")


if __name__ == "__main__":
    main()
