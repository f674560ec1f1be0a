"""Paired comparisons: the sign, the verdict, and what is refused."""

from dataclasses import replace
from functools import partial

import pytest

from dsrun.errors import UsageError
from dsrun.evaluation.comparison import compare as compare_with_draws
from dsrun.evaluation.results import Evaluation, score_utterance

compare = partial(compare_with_draws, samples=1000)


def evaluation(texts: dict[str, tuple[str, str]], speakers: dict[str, str] | None = None) -> Evaluation:
    results = (score_utterance(id, *pair, 0.0) for id, pair in texts.items())
    return Evaluation(tuple(replace(u, speaker=speakers[u.id] if speakers else None) for u in results))


def systems(*, better: int, worse: int = 0) -> tuple[Evaluation, Evaluation]:
    """Of 40 utterances the first reads `better` right that the second does not, and `worse` the other way round."""
    right, wrong = ("go on", "go on"), ("go on", "go in")
    first = {f"{n:02}": wrong if n < worse else right for n in range(40)}
    second = {f"{n:02}": wrong if n >= 40 - better else right for n in range(40)}
    return evaluation(first), evaluation(second)


def test_a_difference_in_the_firsts_favour_is_negative_and_said_so():
    first, second = systems(better=12, worse=1)
    found = compare(first, second)["wer"]
    assert (found["first"], found["second"]) == (1 / 80, 12 / 80)
    assert found["difference"] == pytest.approx(-11 / 80)
    low, high = found["interval"]
    assert low < -11 / 80 < high < 0
    assert found["p_value"] < 0.01
    assert found["verdict"] == "first is better"
    assert (found["first_better"], found["second_better"]) == (12, 1)
    mirrored = compare(second, first)["wer"]
    assert (mirrored["difference"], mirrored["verdict"]) == (-found["difference"], "second is better")


def test_no_difference_is_seen_where_zero_lies_inside_the_interval():
    for pair in (systems(better=3, worse=2), systems(better=0)):
        found = compare(*pair)["cer"]
        assert found["interval"][0] <= 0 <= found["interval"][1]
        assert found["verdict"] == "no difference seen"


def test_utterances_are_paired_by_id_whatever_their_order():
    first, second = systems(better=5)
    assert compare(first, Evaluation(second.utterances[::-1])) == compare(first, second)


def test_the_utterances_furthest_apart_come_first_and_equal_ones_not_at_all():
    first = evaluation({"a": ("one two", "one two"), "b": ("one", "xxx"), "c": ("one", "on"), "d": ("one", "ome")})
    second = evaluation({"a": ("one two", ""), "b": ("one", "one"), "c": ("one", "one"), "d": ("one", "oxe")})
    found = compare(first, second)["differing"]
    assert [(row["id"], row["first_errors"], row["second_errors"]) for row in found] == [
        ("a", 0, 7), ("b", 3, 0), ("c", 1, 0),
    ]  # fmt: skip
    assert (found[0]["reference"], found[0]["first"], found[0]["second"]) == ("one two", "one two", "")


def test_no_difference_is_seen_in_five_utterances_however_clear_they_are():
    for better, verdict in [(4, "no difference seen"), (5, "no difference seen"), (6, "first is better")]:
        found = compare(*systems(better=better))["wer"]
        assert found["verdict"] == verdict
    one = [evaluation({"a": ("one two", text)}) for text in ("one two", "")]
    assert compare(*one)["wer"]["verdict"] == "no difference seen"


def test_speakers_widen_the_interval_where_one_of_them_makes_the_difference():
    def with_speakers(system, per_speaker):
        return Evaluation(tuple(replace(u, speaker=str(int(u.id) // per_speaker)) for u in system.utterances))

    first, second = (with_speakers(system, 4) for system in systems(better=8))
    found = compare(first, second)["wer"]
    assert found["verdict"] == "first is better"
    assert found["by_speaker"]["speakers"] == 10
    assert found["by_speaker"]["verdict"] == "no difference seen"  # two speakers of ten
    assert found["by_speaker"]["difference"] == found["difference"]
    assert found["by_speaker"]["interval"][0] < found["interval"][0]


def test_other_utterances_are_refused_by_name():
    first = evaluation({"a": ("x", "x"), "b": ("x", "x")})
    with pytest.raises(UsageError, match="only the first has 1, e.g. 'b'; only the second has 2, e.g. 'c', 'd'"):
        compare(first, evaluation({"a": ("x", "x"), "c": ("x", "x"), "d": ("x", "x")}))


def test_another_reference_is_refused_with_both_texts():
    with pytest.raises(UsageError, match="1 differ, e.g. 'a': 'Café' and 'cafe'.*data.normalizer"):
        compare(evaluation({"a": ("Café", "x")}), evaluation({"a": ("cafe", "x")}))
