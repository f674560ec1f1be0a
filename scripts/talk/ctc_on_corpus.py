"""CTC on the corpus' own dev utterances: how small their probabilities are, and what computing them by formats costs. JSON on stdout.

    python -m scripts.talk.ctc_on_corpus --config CONFIG [--set KEY=VALUE]...      the network before its first step
    python -m scripts.talk.ctc_on_corpus --run RUN                                 a run's best checkpoint

Of each utterance, from the network's own logits:

* `log10_probability`: of the reference, by the textbook recursion in log space in float64 (`tests/reference/ctc.py`).
* the same recursion on the probabilities themselves, products and sums in float16, float32 and float64: `plain` is what comes out, 0
  where it underflowed. The float32 here has subnormals, which a GPU keeps and most CPU programs flush, so this errs in its favour.
* the gradient's largest absolute error against float64, of dsrun's loss, of plain log space with every result rounded to float32,
  bfloat16 and float16, and of optax."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.reference.ctc import forward_backward

FORMATS = ("float32", "bfloat16", "float16")
PLAIN = {"float16": np.float16, "float32": np.float32, "float64": np.float64}


def plain_probability(probabilities: np.ndarray, labels: list[int], dtype: Any) -> float:
    """p(labels) by sums of products of probabilities [frame, class], all of them in `dtype`; 0 where that underflows."""
    states = [0]
    for label in labels:
        states += [label, 0]
    can_skip = np.array([s >= 2 and states[s] != 0 and states[s] != states[s - 2] for s in range(len(states))])
    emission = probabilities.astype(dtype)[:, states]
    alpha = np.zeros(len(states), dtype)
    alpha[:2] = emission[0, :2]
    with np.errstate(under="ignore"):
        for frame in emission[1:]:
            one, two = np.roll(alpha, 1), np.roll(alpha, 2)
            one[0], two[:2] = 0, 0
            alpha = ((alpha + one) + np.where(can_skip, two, dtype(0))) * frame
        return float(alpha[-1] + (alpha[-2] if len(states) > 1 else dtype(0)))


def rows_of(
    batches: Iterable[tuple[Any, np.ndarray, np.ndarray]], losses: dict[str, Any], limit: int
) -> Iterator[dict[str, Any]]:
    """A row for each of the first utterances; batches come with their logits and output frames."""
    for batch, logits, num_frames in batches:
        gradients = {
            name: np.asarray(gradient(logits, num_frames, batch.labels, batch.num_labels))
            for name, gradient in losses.items()
        }
        for row, id in enumerate(batch.ids):
            if not id or limit == 0:
                continue
            limit -= 1
            frames, labels = int(num_frames[row]), batch.labels[row, : int(batch.num_labels[row])].tolist()
            loss, exact = forward_backward(logits[row, :frames], labels)
            shifted = np.exp(logits[row, :frames].astype(np.float64) - logits[row, :frames].max(axis=1, keepdims=True))
            probabilities = shifted / shifted.sum(axis=1, keepdims=True)
            yield {
                "id": id,
                "frames": frames,
                "labels": len(labels),
                "log10_probability": -loss / np.log(10.0),
                "plain": {name: plain_probability(probabilities, labels, dtype) for name, dtype in PLAIN.items()},
                "gradient_error": {name: _error(found[row, :frames], exact) for name, found in gradients.items()},
            }


def _error(found: np.ndarray, exact: np.ndarray) -> float | None:
    """Largest; None where there is no finite one."""
    error = float(np.max(np.abs(found.astype(np.float64) - exact)))
    return error if np.isfinite(error) else None


def contenders() -> dict[str, Any]:
    """Gradients with respect to the logits."""
    import jax

    from benchmarks.ctc_problem import loss_and_gradient, optax_loss_and_gradient
    from dsrun.arithmetic import parse_format
    from dsrun.ctc import ctc_loss
    from dsrun.ctc.log_space import log_space_ctc_loss

    of_loss = {"dsrun": ctc_loss}
    of_loss |= {f"log space, {name}": partial(log_space_ctc_loss, format=parse_format(name)) for name in FORMATS}
    found = {name: jax.jit(partial(loss_and_gradient, loss)) for name, loss in of_loss.items()}
    found["optax"] = jax.jit(optax_loss_and_gradient)
    return {name: partial(_gradient, function) for name, function in found.items()}


def _gradient(function: Any, *arrays: Any) -> Any:
    return function(*arrays)[1]


def untrained(config: Path, sets: list[str]) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """Dev batches through the network as it is before the first step."""
    from dsrun.config import load_config
    from dsrun.experiment import prepare

    experiment = prepare(load_config(config, sets).config, devices=1)
    state = experiment.step.initial_state()
    weights = experiment.step.weights(state)
    for batch in experiment.dev_batcher.epoch(0):
        yield batch, *experiment.evaluator.logits(weights, state.statistics, batch)


def trained(run: Path) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """Dev batches through a run's best checkpoint."""
    from dsrun import build
    from dsrun.trained import load_run

    found = load_run(run, "best")
    config = found.config
    dataset, _, _ = build.build_evaluation_data(
        config, Path(config.data.dev), found.alphabet, found.normalization, cache=build.cache_of(config, access="read")
    )
    for batch in build.build_batcher(config, dataset, purpose="evaluate").epoch(0):
        yield batch, *found.evaluator.logits(found.weights, found.statistics, batch)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--config", type=Path)
    where.add_argument("--run", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--utterances", type=int, default=64, help="at most so many (default 64)")
    options = parser.parse_args()
    batches = trained(options.run) if options.run else untrained(options.config, options.set)
    rows = list(rows_of(batches, contenders(), options.utterances))
    json.dump({"network": "trained" if options.run else "untrained", "rows": rows}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
