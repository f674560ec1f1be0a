"""Utterances that CTC cannot align."""

from dsrun.training.feasibility import find_infeasible


def test_an_utterance_too_short_for_its_label_is_named_with_its_numbers():
    labels = [[1, 2, 3], [4, 4, 5, 5]]
    found = find_infeasible(["fits", "vm-options"], [6, 10], labels, output_frames=lambda frames: -(-frames // 2))
    assert [f.id for f in found] == ["vm-options"]
    assert "4 labels, 2 of them repeats, need 6 output frames; the front end gives 5 (10 frames)" in str(found[0])
    assert "drop" in str(found[0])


def test_exactly_enough_frames_are_enough():
    assert not find_infeasible(["a"], [6], [[4, 4, 5, 5]], output_frames=lambda frames: frames)
