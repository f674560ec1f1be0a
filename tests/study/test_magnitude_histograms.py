"""Histograms of magnitudes: figures in captions that follow the numbers, and what shares a figure with what."""

import numpy as np
import pytest

from dsrun.errors import DataError
from dsrun.inspection import open_runs
from dsrun.study.magnitude_histograms import MOST_SETTINGS, magnitude_distribution, magnitude_histograms
from dsrun.study.magnitude_panels import LOWEST, bands, label_exponents, span_of
from dsrun.study.magnitude_profile import profile
from dsrun.study.magnitude_settings import MOST_LAYERS, read_settings
from dsrun.study.watched import Range, Tally
from tests.study.run_folders import magnitudes_of, network_tensors, write_watched_run


def tally(counts, **more):
    by_exponent = np.zeros(256, np.int64)
    for exponent, count in counts.items():
        by_exponent[exponent + 127] = count
    return Tally(by_exponent, **more)


def run_of(folder, tables, format="float16", **config):
    return write_watched_run(folder, tables, config={"arithmetic.storage.format": format} | config)


def test_a_profile_finds_the_fewest_binades_the_peak_and_the_power_of_its_tail():
    # A uniform distribution on [0, 1): each binade holds half of the one above.
    uniform = profile(tally({-1 - n: 2**20 >> n for n in range(18)}))
    assert uniform.slope == pytest.approx(1.0, abs=1e-9)
    assert (uniform.peak, uniform.median, uniform.binades_99) == (-1, -1, 7)
    assert uniform.is_peaked
    # Log-uniform: all binades are equally full, so nothing is peaked.
    flat = profile(tally({-n: 100 for n in range(20)}))
    assert (flat.binades_99, flat.is_peaked) == (20, False)
    assert flat.slope == pytest.approx(0.0, abs=1e-9)
    # Two far peaks are one stretch: what lies between them counts, empty or not.
    assert profile(tally({-20: 50, 0: 50})).binades_99 == 21
    assert profile(tally({-3: 7})).slope is None
    assert profile(tally({}, zeros=9)) is None


def _profile_of(values):
    return profile(Tally(np.bincount(values.astype(np.float32).view(np.uint32) >> 23 & 0xFF, minlength=256)))


DRAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
    "Laplace": lambda rng, n: rng.laplace(size=n),
    "logistic": lambda rng, n: rng.logistic(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    **{
        f"log-normal, {width} binades": lambda rng, n, width=width: 2.0 ** (width * rng.normal(size=n))
        for width in (1.5, 2, 3, 4)
    },
}


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_without_a_power_law_are_peaked_and_yet_no_power_law(name):
    rng = np.random.default_rng(0)
    for size in (50_000, 400_000):
        found = _profile_of(np.abs(DRAWS[name](rng, size)))
        assert found.is_peaked
        assert not found.is_power_law
    if (
        "log" not in name[:4]
    ):  # a density that is finite at zero: straight below the peak, and with slope 1, whatever it is above
        assert found.below.slope == pytest.approx(1.0, abs=0.1)  # its last binades hold tens of values
        assert found.below.straightness > 0.99


@pytest.mark.parametrize("freedom", [1, 2, 3])
def test_the_tail_of_students_t_is_a_power_law_whose_exponent_is_its_freedom(freedom):
    found = _profile_of(np.abs(np.random.default_rng(0).standard_t(freedom, size=2_000_000)))
    assert found.is_power_law
    assert found.above.slope == pytest.approx(freedom, rel=0.1)


def test_the_caption_says_how_many_binades_hold_the_values_and_what_shrinks(tmp_path):
    tables = [magnitudes_of(1, network_tensors(shift=4)), magnitudes_of(70, network_tensors())]
    run_of(tmp_path / "run", tables)
    (found,) = magnitude_histograms(open_runs([tmp_path / "run"]))
    assert found.caption.startswith("Everything fits into float16: no value underflows or overflows.")
    assert "7 of the parameters" in found.caption
    assert "Zeros: " in found.caption
    assert "the errors shrink from 2⁻⁶ to 2⁻¹⁰" in found.caption
    assert "the area step 1" in found.caption
    assert {row["step"] for row in found.rows} == {1, 70}
    assert {row["exponent"] for row in found.rows if row["kind"] == "outputs"} >= {-3, "zero"}


def test_what_a_format_loses_comes_first_and_the_loss_scale_is_taken_out_of_the_medians(tmp_path):
    lossy = [t | ({"flushed": 400} if t["kind"] == "error" else {}) for t in network_tensors()]
    tables = [magnitudes_of(1, lossy, loss_scale=1.0), magnitudes_of(9, lossy, loss_scale=16.0)]
    run_of(tmp_path / "run", tables)
    (found,) = magnitude_histograms(open_runs([tmp_path / "run"]))
    assert found.caption.startswith(
        "Not everything fits: rounded to nearest, 20.0% of the errors become zero in float16."
    )
    # The numbers are the same at both steps, so without the scale errors are a sixteenth.
    assert "the errors shrink from 2⁻¹⁰ to 2⁻¹⁴" in found.caption
    assert "carry the loss scale of 16" in found.caption


def test_settings_of_one_format_share_a_figure_and_a_difference_that_is_none_is_said(tmp_path):
    table = [magnitudes_of(3, network_tensors())]
    run_of(tmp_path / "a", table)
    run_of(tmp_path / "b", table, **{"arithmetic.update.rounding": "stochastic"})
    run_of(tmp_path / "c", [magnitudes_of(3, network_tensors("bfloat16"))], "bfloat16")
    first, second = magnitude_histograms(open_runs([tmp_path]))
    assert "Beside float16 no difference seen in float16, stochastic" in first.caption
    assert (first.name, second.name) == ("magnitude_histograms", "magnitude_histograms_2")
    assert second.title == "Magnitudes in bfloat16"
    run_of(tmp_path / "e", table, **{"arithmetic.update.rounding": "toward_zero"})
    caption = magnitude_histograms(open_runs([tmp_path]))[0].caption
    assert caption.count("no difference seen") == 1  # one sentence for all of them
    same = caption.split("no difference seen in ")[1].split(": every")[0]
    assert same == "float16, stochastic and float16, toward_zero", caption
    larger = tmp_path / "d"
    run_of(larger / "x", table)
    run_of(larger / "y", [magnitudes_of(3, network_tensors(shift=2))], **{"arithmetic.update.rounding": "stochastic"})
    (found,) = magnitude_histograms(open_runs([larger]))
    assert "the medians in float16, stochastic are, in binades: errors 2 larger" in found.caption


def test_of_many_settings_some_are_left_out_and_named(tmp_path):
    for n in range(MOST_SETTINGS + 1):
        run_of(tmp_path / f"a{n}", [magnitudes_of(3, network_tensors())], **{"model.hidden": n})
    run_of(tmp_path / "b", [magnitudes_of(3, network_tensors("int8"))], "int8")
    found = magnitude_histograms(open_runs([tmp_path]))
    assert [len({row["setting"] for row in one.rows}) for one in found] == [MOST_SETTINGS, 1]
    assert "Not drawn, beyond 4 figures of 4 settings: float16, hidden 4." in found[-1].caption


def test_a_step_without_activations_is_passed_over_and_a_run_with_none_has_no_figure(tmp_path):
    partial = [t for t in network_tensors() if t["kind"] in ("weight", "update")]
    tables = [magnitudes_of(3, network_tensors()), magnitudes_of(7, partial)]
    run_of(tmp_path / "a" / "run", tables)
    (found,) = magnitude_histograms(open_runs([tmp_path / "a"]))
    assert "Step 3." in found.caption
    run_of(tmp_path / "b" / "run", tables[1:])
    assert magnitude_histograms(open_runs([tmp_path / "b"])) == []
    assert magnitude_distribution(open_runs([tmp_path / "b"])) is None


def tables_of(whole_steps, steps=(1, 100, 200, 300), **kwargs):
    """Tables of steps, in which every kind was watched at some and weights and updates alone at the others."""
    partial = [t for t in network_tensors() if t["kind"] in ("weight", "update")]
    return [magnitudes_of(s, network_tensors(**kwargs) if s in whole_steps else partial) for s in steps]


def test_seeds_whose_whole_steps_differ_have_each_its_last_one_not_after_the_others(tmp_path):
    run_of(tmp_path / "a", tables_of({1, 100, 200}), seed=1)
    run_of(tmp_path / "b", tables_of({1, 100, 300}), seed=2)
    (found,) = magnitude_histograms(open_runs([tmp_path]))
    assert (
        "Each seed's last step with every kind, 100 to 200, the area step 1; up to 2 seeds together." in found.caption
    )
    assert "Between step 1 and steps 100 to 200 no median moves" in found.caption
    assert {(row["from_step"], row["step"], row["seeds"]) for row in found.rows} == {(1, 1, 2), (100, 200, 2)}
    one = read_settings(open_runs([tmp_path / "a"]))[0]
    both = read_settings(open_runs([tmp_path]))[0]
    assert both.total("errors").finite == 2 * one.total("errors").finite


def test_a_seed_without_a_whole_step_in_time_is_left_out_and_said_to_be(tmp_path):
    run_of(tmp_path / "a", tables_of({1, 100}), seed=1)
    run_of(tmp_path / "b", tables_of(set()), seed=2)  # has none at all
    run_of(tmp_path / "c", tables_of({200, 300}), seed=3)  # has none as early as seed 1's last one
    (found,) = magnitude_histograms(open_runs([tmp_path]))
    assert "Without such a step in time and left out: 2 seeds of float16." in found.caption
    assert "Step 100, the area step 1" in found.caption
    assert {row["seeds"] for row in found.rows} == {1}


def test_of_three_seeds_the_change_is_that_of_each(tmp_path):
    for seed, whole in ((1, {1, 300}), (2, {100, 200}), (3, {1, 100})):
        run_of(tmp_path / f"{seed}", tables_of(whole), seed=seed)
    setting = read_settings(open_runs([tmp_path]))[0]
    assert (setting.first_steps, setting.last_steps) == ((1, 100, 1), (1, 100, 100))
    assert "the area steps 1 to 100" in magnitude_histograms(open_runs([tmp_path]))[0].caption


def test_settings_of_different_lengths_are_said_to_be(tmp_path):
    run_of(tmp_path / "a", tables_of({1, 100}))
    run_of(tmp_path / "b", tables_of({1, 300}), **{"arithmetic.update.rounding": "stochastic"})
    (found,) = magnitude_histograms(open_runs([tmp_path]))
    assert "Steps 100 (float16) and 300 (float16, stochastic), the area float16." in found.caption


def test_many_layers_are_taken_together_and_a_layer_reads_what_the_one_before_hands_on(tmp_path):
    run_of(tmp_path / "run", [magnitudes_of(3, network_tensors(layers=9))])
    setting = read_settings(open_runs([tmp_path / "run"]))[0]
    assert list(setting.last["parameters"]) == ["front_end", "gru_0-2", "gru_3-5", "gru_6-8", "output"]
    assert list(setting.last["outputs"]) == ["features", *setting.last["parameters"]]
    assert len(setting.last["parameters"]) <= MOST_LAYERS
    weights = setting.last["parameters"]
    assert weights["gru_0-2"].finite == 3 * weights["output"].finite
    # The front end reads the features, which have no zeros here.
    assert setting.last["inputs"]["front_end"].zeros == 0
    assert setting.last["inputs"]["output"].zeros == 1000


def test_the_distribution_says_whether_it_is_peaked(tmp_path):
    run_of(tmp_path / "a", [magnitudes_of(3, network_tensors(values=2**14))])
    found = magnitude_distribution(open_runs([tmp_path / "a"]))
    assert found.caption.startswith(
        "All kinds are peaked: of the parameters 7 binades hold 99%, the fullest, 2⁻³, 50.0%"
    )
    assert "exponents 1.00 (parameters, R² 1.000)" in found.caption
    flat = [t | {"counts": {-n: 50 for n in range(30)}} for t in network_tensors()]
    run_of(tmp_path / "b", [magnitudes_of(3, flat)])
    assert magnitude_distribution(open_runs([tmp_path / "b"])).caption.startswith(
        "No kind is peaked: of the parameters 30"
    )


def test_bands_are_those_of_the_format_and_one_with_a_scale_has_none():
    found = {name: ends for name, *ends in bands(Range("float16", 2.0**-24, 2.0**-14, 65504.0))}
    assert found["zero, to nearest"] == [-np.inf, -25.0]
    assert (found["subnormal"], found["normal"][0]) == ([-25.0, -14.0], -14.0)
    assert bands(Range("int8", np.nan, np.nan, np.nan)) == []


def test_what_is_rarer_than_is_drawn_makes_no_room():
    span = span_of([tally({-40: 1, -5: int(2 / LOWEST)})])
    assert (span.low, span.high) == (-5, -5)
    assert span_of([tally({})], (-20, 5)).ends[0] < -20


def test_labels_of_exponents_keep_clear_of_the_bars_at_the_edges():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    span = span_of([tally({-30: 9, 12: 9}, nonfinite=3)])
    label_exponents(axes, span, inches=0.9)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "2⁻²⁰", "2⁰", "∞"]


def test_a_damaged_file_is_one_message(tmp_path):
    run_of(tmp_path / "run", [magnitudes_of(3, network_tensors())])
    file = tmp_path / "run" / "magnitudes" / "step_000003.npz"
    file.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"step_000003\.npz: not a whole file of magnitudes"):
        magnitude_histograms(open_runs([tmp_path]))
