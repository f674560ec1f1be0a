"""Scored results as a report: of a run, of a file that an evaluation left, of two of them compared.

On the roof, below `scoring.py`. No JAX: a file of results is read, compared and drawn without a network.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsrun.config import load_config
from dsrun.errors import UsageError
from dsrun.evaluation.breakdown import breakdown
from dsrun.evaluation.comparison import compare
from dsrun.evaluation.results import Evaluation, read_results
from dsrun.record import RunDir, write_atomically


@dataclass(frozen=True)
class Scored:
    """What `dsrun eval --json` prints, and each utterance's result."""

    report: dict[str, Any]
    result: Evaluation

    @property
    def name(self) -> str:
        """What was scored, in a line."""
        report = self.report
        if "results" in report:
            return str(report["results"])
        what = f"{report['format']}, " if "format" in report else ""
        path = report["export"] if "export" in report else report["run"]
        return f"{path}, checkpoint step {report['step']}, {what}{report['decoder']['kind']}"

    @property
    def manifest(self) -> Path | None:
        """The manifest that was scored; a file of results does not say."""
        return Path(self.report["manifest"]) if "manifest" in self.report else None


def is_results_file(path: Path) -> bool:
    """Whether this names results (`.jsonl`) and not a run folder."""
    return path.suffix == ".jsonl" and not path.is_dir()


def is_exported(path: Path) -> bool:
    """Whether a folder is an exported model and no run."""
    return (path / "model.json").is_file() and not RunDir(path).config.is_file()


def score_file(path: Path) -> Scored:
    """Results that an evaluation left on disk, errors counted anew.

    Raises:
        DataError: not a file of results.
    """
    result = read_results(path)
    return Scored({"results": str(path), **result.summary(), **where_errors_are(result), "details": str(path)}, result)


def refuse_another_runtime(first: Path, second: Path) -> None:
    """Raises UsageError for two runs whose settings of XLA differ: they are made once a process, before it computes anything."""
    if first.resolve() == second.resolve() or not all(RunDir(path).config.is_file() for path in (first, second)):
        return  # an export takes any settings; what is no run folder is refused where it is opened
    needs = []
    for path in (first, second):
        config = load_config(RunDir(path).config).config
        needs.append((config.batches.shards, config.determinism))
    if needs[0] == needs[1] and needs[0][1] != "autotuned":
        return
    texts = (
        f"{path}: batches.shards {n}, determinism {d}" for path, (n, d) in zip((first, second), needs, strict=True)
    )
    raise UsageError(
        f"{'; '.join(texts)}. One process cannot have the settings of both. Score each with `dsrun eval RUN --manifest FILE`, then "
        "compare the results: `dsrun eval RUN/evaluation/NAME.jsonl --against OTHER/evaluation/NAME.jsonl`."
    )


def check_page(path: Path) -> None:
    """Raises UsageError for a name that no page can have, or that somebody's file has; before the work and not after it."""
    if path.suffix not in (".html", ".htm"):
        raise UsageError(f"{path}: write a name that ends in .html.")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist.")
    if path.is_file():
        from dsrun.evaluation.page import is_page

        if not is_page(path):
            raise UsageError(
                f"{path}: there already, and no page of dsrun's. Choose another name, or move that file away."
            )


def write_page(path: Path, scored: Scored) -> None:
    """The report and every utterance as one HTML page."""
    from dsrun.evaluation.page import render_page

    write_atomically(path, render_page(scored.name, scored.report, scored.result.utterances))


def with_comparison(first: Scored, second: Scored) -> Scored:
    """The first's report with `comparison`: both systems on the same utterances.

    Raises:
        UsageError: not the same utterances and references.
    """
    found = {"names": [first.name, second.name], **compare(first.result, second.result)}
    return Scored(first.report | {"comparison": found}, first.result)


def where_errors_are(result: Evaluation) -> dict[str, Any]:
    """Examples and tables of a report."""
    examples = {name: example.to_json() for name, example in result.examples().items()}
    return {"examples": examples, **breakdown(result.utterances)}
