"""Seams and stitching, on scores whose text is known."""

import itertools

import numpy as np
import pytest

from dsrun.ctc import greedy_search
from dsrun.errors import DataError
from dsrun.evaluation.clock import OutputClock
from dsrun.evaluation.decoders import GreedyDecoder
from dsrun.evaluation.seams import Seam, find_seam
from dsrun.evaluation.stitching import MOST_CHUNKS, Stitcher, certain_blank, decode_words
from dsrun.speech import Alphabet

ALPHABET = Alphabet(tuple(" abc"))
CLASSES = {symbol: index + 1 for index, symbol in enumerate(ALPHABET.symbols)}
SPACE = 1
CLOCK = OutputClock(first=0.01, step=0.03)


def scores_of(path):
    """Scores whose best class is the path's: `-` is blank, `_` space."""
    classes = np.array([0 if c == "-" else CLASSES[" " if c == "_" else c] for c in path])
    return np.where(np.arange(5) == classes[:, None], np.float32(4.0), np.float32(0.0))


def seam(before, after, space=SPACE):
    assert len(before) == len(after)
    return find_seam(scores_of(before), scores_of(after), overlap=len(before), space=space)


def test_chunks_that_agree_are_cut_between_words_nearest_to_the_middle():
    path = "-a-b--_--c-a-b--_---a-b-----"
    found = seam(path, path)
    assert found.is_between_words
    assert path[: found.place].rstrip("-").endswith("_") or path[found.place :].lstrip("-").startswith("_")
    assert found.place == 14  # the middle, and the next label is a space
    assert seam(path.replace("--_---", "------"), path.replace("--_---", "------")).place < 10
    assert seam(path.replace("_", "-"), path.replace("_", "-"), space=None).place == 14


def test_a_cut_never_goes_through_a_label_and_keeps_off_disagreement():
    #        agreed: the end of c, blanks, a space and the beginning of b
    before = "--aa-----ccc----_----bbb"
    after_ = "-a---c---ccc----_----b--"
    found = seam(before, after_)
    assert 12 <= found.place <= 20
    assert found.is_between_words


def test_a_label_that_one_chunk_says_later_comes_once():
    # Cut in the middle, place 8, `b` would come from neither chunk; the other way round from both.
    early = "----_--b---------"
    late_ = "----_----b-------"
    for before, after in ((early, late_), (late_, early)):
        cut = find_seam(scores_of(before), scores_of(after), overlap=17, space=SPACE).place
        joined = np.concatenate([scores_of(before)[:cut], scores_of(after)[cut:]])
        assert greedy_search(joined[None], [len(joined)]) == [[1, 3]]


def test_chunks_that_agree_nowhere_are_cut_in_the_middle():
    assert seam("aaaaaaaa", "bbbbbbbb") == Seam(4, is_between_words=False)
    assert find_seam(scores_of("ab"), scores_of("ba"), overlap=0, space=SPACE).place == 0


def stitch(path, length, overlap, *, decoder=None, spoil=0, seed=0):
    """Words of a path cut into chunks, each with `spoil` frames of nonsense at the ends that lie inside the recording."""
    whole, random = scores_of(path), np.random.default_rng(seed)
    stitcher = Stitcher(decoder or GreedyDecoder(ALPHABET), ALPHABET, CLOCK)
    starts = [*range(0, max(1, len(path) - length), length - overlap)]
    starts += [len(path) - length] if len(path) > length and starts[-1] != len(path) - length else []
    for start in starts:
        chunk = whole[start : start + length].copy()
        if start and spoil:
            chunk[:spoil] = random.permutation(chunk[:spoil].T).T
        if start + length < len(path) and spoil:
            chunk[-spoil:] = random.permutation(chunk[-spoil:].T).T
        stitcher.add(start, chunk)
    return stitcher.finish(len(path) * CLOCK.step)


def random_path(seed, words=40):
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(words):
        for _ in range(random.integers(1, 6)):
            parts += ["abc"[random.integers(3)] * random.integers(1, 3), "-" * random.integers(1, 3)]
        parts += ["-" * random.integers(0, 4), "_", "-" * random.integers(0, 6)]
    return "".join(parts)


@pytest.mark.parametrize("seed", range(12))
def test_stitched_words_and_times_are_those_of_the_whole(seed):
    path = random_path(seed)
    whole = decode_words(scores_of(path), GreedyDecoder(ALPHABET), ALPHABET, CLOCK, classes=CLASSES)
    stitched = stitch(path, 100, 40, spoil=6, seed=seed)
    assert [word.text for word in stitched] == [word.text for word in whole]
    for field in ("start", "end", "confidence"):
        assert [getattr(w, field) for w in stitched] == pytest.approx([getattr(w, field) for w in whole])


def test_times_never_go_back():
    for seed in range(5):
        words = stitch(random_path(seed), 60, 20, spoil=8, seed=seed)
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times)


def test_a_word_without_end_is_joined_and_its_scores_are_not_held_for_ever():
    held = []

    class Counting(GreedyDecoder):
        def __call__(self, logits, num_frames):
            held.append(int(num_frames[0]))
            return super().__call__(logits, num_frames)

    path = "a-b-c-" * 200
    (word,) = stitch(path, 60, 20, decoder=Counting(ALPHABET))
    assert word.text == "abc" * 200
    assert max(held) <= MOST_CHUNKS * 60


def test_a_decoder_sees_whole_words_only():
    seen = []

    class Noting(GreedyDecoder):
        def __call__(self, logits, num_frames):
            seen.extend(texts := super().__call__(logits, num_frames))
            return texts

    path = random_path(3)
    stitch(path, 100, 40, decoder=Noting(ALPHABET))
    assert len(seen) > 3
    assert (
        " ".join(seen).split() == "".join(k for k, _ in itertools.groupby(path) if k != "-").replace("_", " ").split()
    )


def test_silence_has_no_words_and_scores_that_are_not_finite_are_refused():
    stitcher = Stitcher(GreedyDecoder(ALPHABET), ALPHABET, CLOCK)
    stitcher.add(0, certain_blank(50, 5))
    stitcher.add(40, certain_blank(50, 5))
    with pytest.raises(DataError, match="--checkpoint"):
        stitcher.add(80, np.full((50, 5), np.nan, np.float32))
    assert stitcher.finish(2.7) == ()
    assert Stitcher(GreedyDecoder(ALPHABET), ALPHABET, CLOCK).finish(0.0) == ()
