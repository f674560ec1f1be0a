"""Alignments against the counts they must sum to, and against the texts they must spell."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from dsrun.evaluation.edits import Edit, character_edits, word_edits
from dsrun.evaluation.error_rate import ErrorCount, character_errors, word_errors

# "*" and "" are what aligners take for a gap.
TEXTS = st.text(st.sampled_from("ab *é\u0301日🎙\u202e\u2003"), max_size=14)


def test_each_kind_of_step_is_told_apart():
    assert word_edits("press one now", "press two now please") == [
        Edit("match", "press", "press"),
        Edit("substitution", "one", "two"),
        Edit("match", "now", "now"),
        Edit("insertion", "", "please"),
    ]
    assert character_edits("ab", "b") == [Edit("deletion", "a", ""), Edit("match", "b", "b")]
    assert character_edits("", "") == []


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_steps_spell_both_texts_and_sum_to_the_counted_errors(reference, hypothesis):
    for edits, count, said, read in [
        (character_edits, character_errors, list(reference), list(hypothesis)),
        (word_edits, word_errors, reference.split(), hypothesis.split()),
    ]:
        steps = edits(reference, hypothesis)
        assert [step.reference for step in steps if step.kind != "insertion"] == said
        assert [step.hypothesis for step in steps if step.kind != "deletion"] == read
        kinds = Counter(step.kind for step in steps)
        found = ErrorCount(kinds["substitution"], kinds["deletion"], kinds["insertion"], len(said))
        assert found == count(reference, hypothesis)
