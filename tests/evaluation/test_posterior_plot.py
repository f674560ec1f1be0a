"""The picture of what a network heard: times and classes where they must be, and texts that nobody foresaw."""

from dataclasses import replace

import numpy as np
import pytest

from dsrun.evaluation.clock import OutputClock
from dsrun.evaluation.posterior_plot import draw_posterior, drawable, posterior_figure
from dsrun.evaluation.posteriors import MOST_CLASSES, Heard, log10_probabilities, shown_classes

CLOCK = OutputClock(first=0.02, step=0.03)


def heard(path: list[int], *, symbols: str = " ab", **more) -> Heard:
    """An utterance whose most probable classes are `path`, by a factor of e**4."""
    logits = 4.0 * np.eye(len(symbols) + 1, dtype=np.float32)[path]
    frames = np.random.default_rng(1).standard_normal((3 * len(path), 5)).astype(np.float32)
    return Heard(
        id="u", reference="a b", hypothesis="ab", features=frames, first_frame=0.01, hop=0.01, highest=(8.0, "kHz"),
        logits=logits, clock=CLOCK, symbols=symbols, wanted=[], **more,
    )  # fmt: skip


def test_probabilities_of_a_frame_sum_to_one_and_large_scores_do_not_overflow():
    logits = np.array([[0, 1, 2], [300, 1000, -1000]], np.float32)
    found = log10_probabilities(logits)
    np.testing.assert_allclose((10**found).sum(axis=1), 1, rtol=1e-12)
    assert found[1, 1] == 0


def test_each_label_that_greedy_search_reads_has_a_dot_at_its_first_frames_time_and_is_written_above_it():
    # blank a a blank a b space: read "aab ".
    figure = posterior_figure(heard([0, 2, 2, 0, 2, 3, 1]).shown())
    spectrogram, posterior = figure.axes[:2]
    line, dots = posterior.lines
    times = [CLOCK.first + CLOCK.step * frame for frame in range(7)]
    np.testing.assert_allclose(line.get_xdata(), times)
    np.testing.assert_allclose(dots.get_xdata(), [times[1], times[4], times[5], times[6]])
    assert dots.get_ydata().tolist() == [2, 2, 3, 1]
    assert [(text.get_text(), text.get_position()[0]) for text in spectrogram.texts] == [
        ("a", pytest.approx(times[1])), ("a", pytest.approx(times[4])), ("b", pytest.approx(times[5])), ("␣", pytest.approx(times[6])),
    ]  # fmt: skip
    assert [label.get_text() for label in posterior.get_yticklabels()] == ["blank", "␣", "a", "b"]


def test_both_panels_share_an_axis_of_seconds_and_frames_are_around_their_middles():
    figure = posterior_figure(heard([0, 2]).shown())
    spectrogram, posterior = (axes.images[0].get_extent() for axes in figure.axes[:2])
    # Six frames, their middles at 0.01 to 0.06; two output frames, at 0.02 and 0.05.
    np.testing.assert_allclose(spectrogram, (0.005, 0.065, 0, 8))
    np.testing.assert_allclose(posterior[:2], (0.005, 0.065))
    assert figure.axes[1].get_xlim() == figure.axes[0].get_xlim()


def test_of_a_large_alphabet_the_classes_of_path_and_reference_are_shown_and_then_the_most_probable():
    log_probs = np.full((3, 3000), -9.0)
    log_probs[0, 2000] = log_probs[2, 1500] = -1
    found = shown_classes(log_probs, np.array([0, 2500, 0]), [7, 2999])
    assert len(found) == MOST_CLASSES
    assert {0, 2500, 7, 2999, 2000, 1500} <= set(found)
    assert found == sorted(found)
    assert shown_classes(log_probs[:, :5], np.array([0, 1, 0]), []) == [0, 1, 2, 3, 4]


def test_what_the_font_lacks_is_drawn_as_a_code_point():
    assert drawable("é ß 'a'") == "é ß 'a'"
    assert drawable("你a\u202e\n") == "U+4F60 aU+202E U+000A"


def test_any_text_can_be_drawn_and_the_same_numbers_give_the_same_bytes_again(tmp_path):
    texts = {"id": "$x", "reference": "$\\frac{1}{0}$ 你好 مرحبا \x00", "hypothesis": "", "symbols": "$你\u0301"}
    strange = replace(heard([0, 1, 2, 3]), **texts)
    for file in (tmp_path / name for name in ("a.svg", "b.svg", "c.png")):
        draw_posterior(strange.shown(), file)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
