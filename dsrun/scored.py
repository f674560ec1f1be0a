"""Scored results as a report: of a run, of a file that an evaluation left, of two of them compared.

On the roof, below `scoring.py`. No JAX: a file of results is read, compared and drawn without a network.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsrun.evaluation.breakdown import breakdown
from dsrun.evaluation.results import Evaluation, read_results


@dataclass(frozen=True)
class Scored:
    """What `dsrun eval --json` prints, and each utterance's result."""

    report: dict[str, Any]
    result: Evaluation


def score_file(path: Path) -> Scored:
    """Results that an evaluation left on disk, errors counted anew.

    Raises:
        DataError: not a file of results.
    """
    result = read_results(path)
    return Scored({"results": str(path), **result.summary(), **where_errors_are(result), "details": str(path)}, result)


def where_errors_are(result: Evaluation) -> dict[str, Any]:
    """Examples and tables of a report."""
    examples = {name: example.to_json() for name, example in result.examples().items()}
    return {"examples": examples, **breakdown(result.utterances)}
