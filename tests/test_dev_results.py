"""Results of the best checkpoint on dev: replaced as soon as a best is found, and gone where a resumed run does not know of it."""

import pytest

from dsrun.dev_results import DevResults
from dsrun.evaluation.results import Evaluation, read_results, score_utterance


@pytest.fixture
def results(tmp_path):
    (tmp_path / "run").mkdir()
    return DevResults(tmp_path / "run" / "evaluation" / "dev.jsonl", {"a": (1.5, "s")}, {"kind": "greedy"})


def evaluation(read: str) -> Evaluation:
    return Evaluation((score_utterance("a", "said", read, 1.0),))


def test_a_new_best_replaces_the_file_and_has_seconds_and_speaker(results):
    results.keep(10, evaluation("x"))
    results.keep(20, evaluation("said"))
    (found,) = read_results(results.path).utterances
    assert (found.hypothesis, found.seconds, found.speaker) == ("said", 1.5, "s")
    assert [path.name for path in results.path.parent.iterdir()] == ["dev.jsonl"]


@pytest.mark.parametrize(("best", "stays"), [(20, True), (10, False), (None, False), (30, False)])
def test_of_a_run_that_goes_on_only_the_results_of_its_best_stay(results, best, stays):
    results.settle(best)  # nothing there yet
    results.keep(20, evaluation("x"))
    results.settle(best)
    assert results.path.exists() == stays
