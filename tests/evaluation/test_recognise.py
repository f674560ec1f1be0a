"""The recogniser's shapes, and the queue before it."""

import itertools

import numpy as np
import pytest

from dsrun.arithmetic import FLOAT32_POLICY
from dsrun.evaluation.batch_queue import PATIENCE, BatchQueue
from dsrun.evaluation.recognise import Recogniser, ladder
from dsrun.evaluation.whole_pass import trained_pass
from dsrun.model import FrameStackSettings, ModelSettings, init_parameters, initial_statistics

SETTINGS = ModelSettings(
    num_bins=5, num_classes=4, front_end=FrameStackSettings(stack=3, stride=3, hidden=8), hidden=8, layers=2,
    direction="bidirectional", normalization="batch", dropout=0.0, relu_clip=20.0,
)  # fmt: skip


def clip(frames, seed=0):
    return np.random.default_rng(seed).standard_normal((frames, 5)).astype(np.float32)


def test_a_ladder_halves_and_holds_every_length_up_to_the_longest():
    assert ladder(1998, 3) == (252, 501, 999, 1998)
    assert ladder(3, 3) == (3,)
    for longest in range(1, 200):
        rungs = ladder(longest, 3)
        assert rungs[-1] >= longest
        assert all(rung % 3 == 0 for rung in rungs)
        assert all(below * 2 >= above - 3 for below, above in itertools.pairwise(rungs))


def test_a_clips_scores_are_bit_for_bit_the_same_whatever_is_recognised_with_it():
    weights, statistics = init_parameters(SETTINGS, 1), initial_statistics(SETTINGS)
    recogniser = Recogniser(
        SETTINGS, trained_pass(SETTINGS, FLOAT32_POLICY), weights, statistics, rows=4, lengths=ladder(24, 3)
    )
    mine = clip(17)
    alone = recogniser([mine])[0]
    assert alone.shape == (6, 4)
    for seed in range(3):
        others = [clip(frames, seed) for frames in (24, 13, 20)]
        for row in range(4):
            together = recogniser([*others[:row], mine, *others[row:]])
            assert np.array_equal(together[row], alone)
    assert recogniser.compile_seconds > 0
    assert recogniser.rung(17) == 24


class Recorder:
    """Stands for a recogniser: rung by tens, scores are the clips."""

    rows = 3

    def __init__(self):
        self.batches = []

    def rung(self, num_frames):
        return num_frames // 10

    def __call__(self, clips):
        self.batches.append([len(clip) for clip in clips])
        return list(clips)


def test_a_line_is_run_when_it_is_full_and_clips_keep_their_tags():
    queue = BatchQueue(recorder := Recorder())
    assert queue.put("a", clip(11)) == []
    assert queue.put("b", clip(25)) == []
    assert queue.put("c", clip(12)) == []
    done = queue.put("d", clip(13))
    assert [(tag, len(scores)) for tag, scores in done] == [("a", 11), ("c", 12), ("d", 13)]
    assert [tag for tag, _ in queue.flush()] == ["b"]
    assert queue.flush() == []
    assert recorder.batches == [[11, 12, 13], [25]]


@pytest.mark.parametrize("before", [0, 1])
def test_a_clip_of_a_rare_length_does_not_wait_for_a_long_recording_to_end(before):
    queue = BatchQueue(Recorder())
    for number in range(before):
        queue.put(f"x{number}", clip(11))
    queue.put("rare", clip(99))
    came = 0
    while "rare" not in [tag for tag, _ in queue.put("long", clip(11))]:
        came += 1
        assert came <= (PATIENCE + 1) * Recorder.rows
