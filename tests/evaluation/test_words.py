"""Words and their times: the clock against clicks, words against text."""

import jax.numpy as jnp
import numpy as np
import pytest

from dsrun.arithmetic import FLOAT32_POLICY
from dsrun.ctc import Alignment, Span, best_alignment
from dsrun.evaluation.clock import OutputClock
from dsrun.evaluation.words import join_words, timed_words
from dsrun.model.frontend import Conv2dSettings, FrameStackSettings, centre_frame, make_front_end, time_stride
from dsrun.model.norm import ForwardPass
from dsrun.speech import Alphabet, FeatureSettings

RATE = 16_000
FEATURES = FeatureSettings(kind="log_spectrogram", sample_rate=RATE)
LATIN = Alphabet(tuple(" abc"))


def clock_of(settings):
    step = time_stride(settings) * FEATURES.hop / RATE
    return OutputClock(FEATURES.centre_seconds(centre_frame(settings)), step)


def frames_that_hear(settings, clicks):
    """For a click at each of these samples, the first and last output frame whose value it changes."""
    silence = np.zeros(RATE // 2, np.float32)
    sounds = [silence + (np.arange(len(silence)) == click).astype(np.float32) for click in clicks]
    difference = np.stack([FEATURES.compute(sound) for sound in sounds]) - FEATURES.compute(silence)
    front_end = make_front_end(settings, FEATURES.num_bins, "none", 1e30)
    for name, value in vars(front_end).items():
        if name.startswith("kernel"):
            value[...] = jnp.full(value.shape, 1e-3, jnp.float32)
    lengths = jnp.full((len(clicks),), difference.shape[1], jnp.int32)
    hears = np.asarray(front_end(jnp.asarray(difference), lengths, ForwardPass(FLOAT32_POLICY, None))).any(axis=2)
    return hears.argmax(axis=1), hears.shape[1] - 1 - hears[:, ::-1].argmax(axis=1)


@pytest.mark.parametrize(
    "settings",
    [
        FrameStackSettings(stack=5, stride=3, hidden=2),
        FrameStackSettings(stack=4, stride=2, hidden=2),
        FrameStackSettings(stack=1, stride=1, hidden=2),
        Conv2dSettings(channels=1),
    ],
)
def test_the_output_frames_that_hear_a_click_are_centred_on_it(settings):
    clock = clock_of(settings)
    clicks = np.arange(3840, 3840 + 960, 15)  # far from both ends, and a whole number of each of these steps
    edges = clock.start, clock.end
    heard = frames_that_hear(settings, clicks)
    first, last = (np.array([edge(int(t)) for t in frames]) for edge, frames in zip(edges, heard, strict=True))
    times = clicks / RATE
    assert (first < times).all()
    assert (times < last).all()
    # One click is off by half a step at most, and clicks everywhere are not off on average: half a window
    # forgotten is 10 ms, half a frame 5.
    errors = (first + last) / 2 - times
    assert np.abs(errors).max() <= clock.step / 2 + 1e-9
    assert abs(errors.mean()) < 0.002


def test_output_frames_tile_time():
    clock = OutputClock(first=0.01, step=0.03)
    assert clock.end(4) == clock.start(5)
    assert clock.start(0) == pytest.approx(-0.005)


def test_words_are_what_stands_between_spaces_and_their_text_is_the_decoded_one():
    labels = [1, 2, 3, 1, 1, 4, 4, 1]
    spans = tuple(Span(label, 2 * k, 2 * k, 0.5) for k, label in enumerate(labels))
    words = timed_words(Alignment(-1.0, spans), LATIN, OutputClock(0.01, 0.03), seconds=9.0)
    assert [word.text for word in words] == ["ab", "cc"]
    assert join_words(words, LATIN) == LATIN.decode(labels)
    assert [word.start for word in words] == pytest.approx([0.01 + 1.5 * 0.03, 0.01 + 9.5 * 0.03])
    assert [word.end for word in words] == pytest.approx([0.01 + 4.5 * 0.03, 0.01 + 12.5 * 0.03])


def test_without_a_space_in_the_alphabet_every_character_is_a_word():
    alphabet = Alphabet(("你", "好"))
    spans = (Span(1, 0, 1, 0.5), Span(2, 3, 3, 0.5))
    words = timed_words(Alignment(-1.0, spans), alphabet, OutputClock(0.01, 0.03), seconds=9.0)
    assert [word.text for word in words] == ["你", "好"]
    assert join_words(words, alphabet) == alphabet.decode([1, 2]) == "你好"


def test_no_time_lies_outside_the_recording_and_a_later_part_is_moved():
    spans = (Span(2, 0, 9, 0.5),)
    clock = OutputClock(first=0.01, step=0.03)
    (word,) = timed_words(Alignment(-1.0, spans), LATIN, clock, seconds=0.25)
    assert (word.start, word.end) == (0.0, 0.25)
    (word,) = timed_words(Alignment(-1.0, spans), LATIN, clock, seconds=99.0, first_frame=100)
    assert (word.start, word.end) == pytest.approx((clock.start(100), clock.end(109)))


def test_confidence_is_the_mean_over_the_frames_of_the_words_labels():
    probabilities = np.array([[0.1, 0.0, 0.9, 0.0], [0.3, 0.0, 0.7, 0.0], [0.9, 0.0, 0.1, 0.0], [0.5, 0.0, 0.0, 0.5]])
    alphabet = Alphabet(tuple(" ab"))
    with np.errstate(divide="ignore"):
        alignment = best_alignment(np.log(probabilities), [2, 3])
    (word,) = timed_words(alignment, alphabet, OutputClock(0.01, 0.03), seconds=9.0)
    assert word.text == "ab"
    assert word.confidence == pytest.approx((0.9 + 0.7 + 0.5) / 3)
