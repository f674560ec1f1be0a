"""Tables of errors against hand-made corpora, and the interval over speakers against theory."""

from dataclasses import replace

import numpy as np
import pytest

from dsrun.evaluation.breakdown import breakdown, by_length, by_speaker, confusions, counts_by_speaker
from dsrun.evaluation.edits import character_edits, word_edits
from dsrun.evaluation.error_rate import ErrorCount, bootstrap_interval
from dsrun.evaluation.results import UtteranceResult, score_utterance


def result(id: str, reference: str, hypothesis: str, *, seconds=None, speaker=None) -> UtteranceResult:
    return replace(score_utterance(id, reference, hypothesis, 0.0), seconds=seconds, speaker=speaker)


def test_length_bins_hold_equally_many_utterances_and_each_is_a_corpus_of_its_own():
    # 40 utterances of 1 to 40 seconds; only those above 30 s have an error, one of two words, twice in the last.
    texts = {40: "no no"}
    found = by_length(
        [result(str(n), "go on", texts.get(n, "go in" if n > 30 else "go on"), seconds=float(n)) for n in range(1, 41)]
    )
    assert [row["seconds"] for row in found] == [[1, 10], [11, 20], [21, 30], [31, 40]]
    assert [row["utterances"] for row in found] == [10] * 4
    assert [row["wer"] for row in found] == [0, 0, 0, 11 / 20]
    assert found[0]["wer_interval"] == [0, 0]
    low, high = found[3]["wer_interval"]
    assert low == 0.5
    assert 0.55 < high <= 0.75


def test_equal_lengths_share_a_bin_and_every_utterance_is_in_one():
    lengths = [1.0] * 35 + [2.0] * 3 + [9.0] * 12
    found = by_length([result(str(n), "a", "a", seconds=s) for n, s in enumerate(lengths)])
    assert [(row["seconds"], row["utterances"]) for row in found] == [([1, 1], 35), ([2, 9], 15)]


def test_few_utterances_are_one_bin_and_unknown_lengths_a_row_of_their_own():
    known = [result(str(n), "a", "b", seconds=float(n)) for n in range(1, 4)]
    unknown = result("x", "a", "a")
    rows = by_length([unknown, *known])
    assert [(row["seconds"], row["utterances"], row["cer"]) for row in rows] == [([1, 3], 3, 1), (None, 1, 0)]
    assert rows[1]["cer_interval"] is None  # one utterance says nothing of how others would be
    assert by_length([unknown]) is None


def test_speakers_are_ranked_from_worst_to_best_over_all_their_words():
    found = by_speaker(
        [
            result("1", "a b c d", "a b c x", speaker="ann"),
            result("2", "a", "b", speaker="bob"),
            result("3", "a b c", "a b c", speaker="bob"),
            result("4", "a b", "", speaker="cy"),
            result("5", "a", "b"),
        ]
    )
    assert [(row["speaker"], row["utterances"], row["wer"]) for row in found["rows"]] == [
        ("cy", 1, 1), ("bob", 2, 1 / 4), ("ann", 1, 1 / 4),
    ]  # fmt: skip
    assert found["speakers"] == 3
    assert found["spread"]["wer"] == {"min": 1 / 4, "q1": 1 / 4, "median": 1 / 4, "q3": 1, "max": 1}
    assert found["without_speaker"]["utterances"] == 1
    assert by_speaker([result("1", "a", "b")]) is None
    assert by_speaker([result("1", "a", "b", speaker="ann")])["cer_interval"] is None


def test_a_speaker_is_drawn_whole_and_an_utterance_without_one_alone():
    utterances = [result(str(n), "a", "b" if n < 2 else "a", speaker="ann" if n in (0, 3) else None) for n in range(4)]
    assert counts_by_speaker(utterances, "words") == [
        ErrorCount(1, 0, 0, 2), ErrorCount(1, 0, 0, 1), ErrorCount(0, 0, 0, 1),
    ]  # fmt: skip


def test_the_interval_over_speakers_holds_the_rate_of_the_population_where_that_over_utterances_is_too_narrow():
    chance = np.random.default_rng(1)
    hits = {"speakers": 0, "utterances": 0}
    for corpus in range(60):
        # 20 speakers with rates around 0.3, 10 utterances of 10 words each.
        errors = chance.binomial(10, chance.beta(3, 7, size=20)[:, None], size=(20, 10))
        utterances = [ErrorCount(int(e), 0, 0, 10) for e in errors.ravel()]
        speakers = [ErrorCount(int(e), 0, 0, 100) for e in errors.sum(axis=1)]
        for name, counts in (("speakers", speakers), ("utterances", utterances)):
            low, high = bootstrap_interval(counts, seed=corpus, samples=300)
            hits[name] += low <= 0.3 <= high
    # 95% wanted; standard error 3%, and a percentile interval of 20 draws itself covers about 92%.
    assert hits["speakers"] / 60 >= 0.83
    # Half of an utterance's variance is its speaker's, so the standard error is 2.3 times what these see: they cover about 60%.
    assert hits["utterances"] / 60 <= 0.78


def test_confusions_count_what_was_read_as_what_and_how_often_it_was_spoken():
    texts = [("press one", "press won"), ("one one", "won"), ("press", "press me"), ("two", "too")]
    found = confusions(word_edits(*pair) for pair in texts)
    assert found["substitutions"] == {
        "total": 3,
        "distinct": 2,
        "rows": [
            {"said": "one", "read": "won", "count": 2, "spoken": 3},
            {"said": "two", "read": "too", "count": 1, "spoken": 1},
        ],
    }
    assert found["deletions"]["rows"] == [{"said": "one", "read": None, "count": 1, "spoken": 3}]
    assert found["insertions"]["rows"] == [{"said": None, "read": "me", "count": 1, "spoken": None}]


def test_spaces_and_accents_are_confused_like_other_characters():
    found = confusions([character_edits("où là", "oula")])
    assert [(row["said"], row["read"]) for row in found["substitutions"]["rows"]] == [("à", "a"), ("ù", "u")]
    assert found["deletions"]["rows"][0]["said"] == " "


def test_totals_of_the_confusions_are_the_corpus_errors():
    utterances = [result("1", "a bb c", "a b"), result("2", "", "x"), result("3", "d", "d e")]
    found = breakdown(utterances)
    for counts, kinds in found["confusions"].items():
        for kind in ("substitutions", "deletions", "insertions"):
            assert kinds[kind]["total"] == sum(getattr(getattr(u, counts), kind) for u in utterances)
    assert found["by_length"] is None
    assert found["by_speaker"] is None


@pytest.mark.parametrize("speaker", [None, "ann"])
def test_utterances_without_reference_give_infinite_rates_and_no_nan(speaker):
    found = breakdown([result("1", "", "x", seconds=1.0, speaker=speaker), result("2", "", "", seconds=2.0)])
    assert found["by_length"][0]["cer"] == float("inf")
    assert found["by_length"][0]["cer_interval"] == [0, float("inf")]
