"""Captions that would be wrong of runs that are not all alike: steps without a record, seeds that diverged, ties, other loss scales."""

import json
import re
import shutil

import pytest

from dsrun.inspection import open_runs
from dsrun.record import EventLog
from dsrun.study.bytes_and_time import bytes_and_time
from dsrun.study.compare import compare_groups
from dsrun.study.determinism_strip import determinism_strip
from dsrun.study.error_rates import error_rates
from dsrun.study.figure_files import _COORDINATES, _shortened
from dsrun.study.groups import group_runs
from dsrun.study.labels import elided, text_width
from dsrun.study.learning_curves import learning_curves
from dsrun.study.loss_scale import loss_scale
from dsrun.study.magnitude_histograms import magnitude_distribution, magnitude_histograms
from dsrun.study.outcomes import outcome
from dsrun.study.swallowed_updates import swallowed_updates
from dsrun.study.underflow_overflow import underflow_overflow
from dsrun.study.utterances import utterances
from dsrun.study.verdict_strip import verdict_strip
from dsrun.study.verdicts import verdicts
from tests.study.run_folders import magnitudes_of, network_tensors, write_run_folder, write_watched_run

FLOAT16 = {"arithmetic.storage.format": "float16"}
DIVERGED = {"state": "failed", "status": {"exit_code": 4}}


def seldom_logged(folder):
    """100 steps of half a second, every tenth on record, and the three that were skipped."""
    write_run_folder(folder, steps=0, dev_cer=[0.5])
    (folder / "events.jsonl").unlink()
    log = EventLog(folder / "events.jsonl")
    for step in sorted({*range(10, 101, 10), 3, 4, 55}):
        is_finite = step not in (3, 4, 55)
        log.append("step", step, loss=1.0, loss_scale=8.0, finite=is_finite, seconds=0.5, epoch=0, utterances=16)
    log.append("eval", 100, manifest="dev", cer=0.5, wer=0.5)
    log.close()
    return open_runs([folder])


def test_skipped_steps_are_a_share_of_all_steps_where_few_are_on_record(tmp_path):
    runs = seldom_logged(tmp_path / "a")
    assert loss_scale(runs).caption.startswith("3 of 100 steps (3.0%) skipped")


def test_time_counts_the_steps_that_are_not_on_record(tmp_path):
    runs = seldom_logged(tmp_path / "a")
    assert runs[0].training_seconds == 50
    assert runs[0].elapsed[[0, -1]].tolist() == [1.5, 50.0]
    exhibit = learning_curves(runs)
    assert [row["seconds"] for row in exhibit.rows if row["curve"] == "dev CER"] == [50.0]
    assert "the others count as long as the median" in exhibit.caption


def test_the_mean_and_the_band_of_several_seeds_are_among_the_numbers(tmp_path):
    for seed, last in ((1, 0.2), (2, 0.4)):
        write_run_folder(tmp_path / str(seed), config={"seed": seed}, dev_cer=[0.9, last])
    rows = learning_curves(open_runs([tmp_path])).rows
    last = {row["seed"]: row["value"] for row in rows if row["curve"] == "dev CER" and row["step"] == 8}
    assert last == pytest.approx({1: 0.2, 2: 0.4, "mean": 0.3, "lowest": 0.2, "highest": 0.4})


def repeated(folder, steps=4, *, hashes=True, losses=True):
    """A run of a config and seed that others here have too."""
    write_run_folder(folder, steps=0, dev_cer=[0.5])
    log = EventLog(folder / "events.jsonl")
    for step in range(1, steps + 1):
        records = ({"state_hash": f"{step:016x}"} if hashes else {}) | ({"loss": 1.0} if losses else {})
        log.append("step", step, **records)
    log.close()


def test_of_a_run_without_records_nothing_is_said_to_be_equal(tmp_path):
    repeated(tmp_path / "a", hashes=False, losses=False)
    for name in ("b", "c"):
        repeated(tmp_path / name)
    answer = determinism_strip(open_runs([tmp_path])).alt
    assert (
        "b and c, which ought to be equal, have the same bits at all 4 steps that both recorded; of a there is no"
        in answer
    )


def test_losses_of_one_pair_are_no_bits_of_all(tmp_path):
    for name in ("a", "b", "c"):
        repeated(tmp_path / name, hashes=name != "c")
    answer = determinism_strip(open_runs([tmp_path])).alt
    assert "All 3 runs that ought to be equal to others here have the same bits, or (1 of 2 pairs) losses" in answer


def sized(folder, size, seconds=0.5, **config):
    write_run_folder(folder, config=config, step_fields={"seconds": seconds})
    roles = {"master": {"as_carried": 400, "as_formats": size}}
    (folder / "costs.json").write_text(json.dumps({"bytes": roles}))
    return folder


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (
            (400, 200, 100),
            "With the fewest bytes of all, float8_e4m3fn keeps 0.25 of the bytes of float32 from step to step",
        ),
        ((400, 200, 200), "With as few bytes as any, float16 keeps 0.50 of the bytes of float32"),
        (
            (100, 200, 400),
            "None keeps fewer bytes than the first setting: of the others, float16 keeps 2.00 times the bytes",
        ),
        ((100, 100, 400), "With as few bytes as any, float16 keeps as many bytes from step to step as float32"),
        ((0, 200, 400), "float16 takes 1.00 of its time a step here"),
    ],
)
def test_the_fewest_bytes_are_those_of_no_other_setting_the_first_among_them(tmp_path, sizes, words):
    formats = ({}, FLOAT16, {"arithmetic.storage.format": "float8_e4m3fn"})
    runs = open_runs(
        [sized(tmp_path / name, size, **config) for name, size, config in zip("abc", sizes, formats, strict=True)]
    )
    assert bytes_and_time(runs).caption.startswith(words)


def test_formats_of_one_family_have_other_colours_and_marks_beside_their_times(tmp_path):
    names = ("float8_e4m3fn", "float8_e5m2")
    runs = open_runs([sized(tmp_path / name, 1, **{"arithmetic.storage.format": name}) for name in names])
    times = bytes_and_time(runs).draw(10.0).axes[1]
    marks = {(line.get_marker(), line.get_color()) for line in times.lines if line.get_marker() not in ("None", "")}
    assert len(marks) == 2


def test_verdict_compare_and_bytes_and_time_have_one_time_a_step_and_one_number_of_bytes_without_the_gradient(tmp_path):
    """Of unlike seeds the mean of medians and the median of all steps are two numbers; the gradient is gone after the step."""
    for seed, seconds in ((1, 0.2), (2, 0.4), (3, 1.2)):
        sized(tmp_path / f"a{seed}", 1000, seed=seed)
        folder = sized(tmp_path / f"b{seed}", 500, seconds, seed=seed, **FLOAT16)
        costs = json.loads((folder / "costs.json").read_text())
        costs["bytes"]["gradient"] = {"as_carried": 4000, "as_formats": 2000}
        (folder / "costs.json").write_text(json.dumps(costs))
    runs = open_runs([tmp_path])
    groups = group_runs(runs)
    found = verdicts(groups, "test")[1]
    costs = compare_groups(groups, groups[0])["groups"][1]["costs"]
    assert (found.bytes, costs["bytes_as_formats"], costs["bytes_as_carried"]) == (500, 500, 400)
    assert (found.seconds, costs["milliseconds_a_step"], found.time) == pytest.approx((0.4, 400, 0.8))
    assert bytes_and_time(runs).caption.startswith(
        "float16 keeps 0.50 of the bytes of float32 from step to step (500 bytes against 1 kB) and takes 0.80 of its time a step here."
    )


def test_a_difference_of_some_of_the_seeds_says_which_in_the_caption(tmp_path):
    for seed, wrong in ((1, 4), (2, 12)):
        write_run_folder(tmp_path / f"a{seed}", config={"seed": seed}, texts=texts(wrong))
    write_run_folder(tmp_path / "b", config=FLOAT16, texts=texts(4))
    exhibit = verdict_strip(open_runs([tmp_path]))
    rate = exhibit.rows[1]["test CER"]
    assert (
        f"The difference of float16 is of seed 1 alone, which both have ({rate:.4f} against {rate:.4f}); seed 2 of float32 is in its "
        "rate only." in exhibit.caption
    )
    assert exhibit.rows[1]["test difference"] == 0
    assert exhibit.rows[0]["test CER"] > rate
    assert f"{rate:.4f} against {rate:.4f}, 1 seed in common" in str(exhibit.html)


def test_bold_captions_speak_of_what_was_watched_alone(tmp_path):
    write_watched_run(tmp_path / "a", [magnitudes_of(4, network_tensors("float32", changed=10))])
    write_run_folder(tmp_path / "b", config=FLOAT16)
    for exhibit in (swallowed_updates, underflow_overflow):
        caption = exhibit(open_runs([tmp_path])).caption
        assert "any format" not in caption
        assert "Not seen" in caption
    shutil.rmtree(tmp_path / "b")
    assert "Not seen" not in underflow_overflow(open_runs([tmp_path])).caption


def test_a_copy_of_a_run_before_its_first_step_has_begun(tmp_path):
    runs = open_runs([write_run_folder(tmp_path / "a", steps=0, dev_cer=[0.5], state="running", status={"step": 0})])
    assert outcome(runs[0]).text == "was killed or is still going on, before its first step"


def test_a_single_evaluation_is_no_way_from_somewhere_to_somewhere(tmp_path):
    for seed in (1, 2):
        write_run_folder(tmp_path / str(seed), config={"seed": seed}, dev_cer=[0.2 * seed])
    exhibit = learning_curves(open_runs([tmp_path]))
    assert exhibit.caption.startswith(
        "Dev CER was 0.200 at step 8, the only evaluation with seed 1; was 0.400 at step 8, the only evaluation with seed 2."
    )
    bars = [part for axes in exhibit.draw(10.0).axes for part in axes.collections if len(part.get_paths())]
    assert any(path.get_extents().height == pytest.approx(0.2) for part in bars for path in part.get_paths())


def texts(wrong):
    rows = [(f"u{n}", f"say the word {n}", ("x" if n < wrong else "") + f"say the word {n}") for n in range(20)]
    return {"dev": rows, "test": rows}


def test_runs_that_diverged_have_no_part_in_a_settings_rate_and_difference(tmp_path):
    for seed in (1, 2, 3):
        write_run_folder(tmp_path / f"a{seed}", config={"seed": seed}, texts=texts(10))
        ended = {"texts": texts(10)} if seed == 1 else {"texts": {"dev": texts(0)["dev"]}, **DIVERGED}
        write_run_folder(tmp_path / f"b{seed}", config=FLOAT16 | {"seed": seed}, **ended)
    runs = open_runs([tmp_path])
    for split in ("dev", "test"):
        found = verdicts(group_runs(runs), split)[1]
        assert found.word == "no difference seen"
        assert found.rates[split].seeds == (1,)
        caption = verdict_strip(runs, split=split).caption
        assert caption.startswith(
            f"Against float32, by CER on {split}: no difference was seen for float16 (2 of 3 runs diverged)."
        )
    assert "of the complete runs alone: float16 (2 of 3 runs diverged)" in error_rates(runs).caption


def test_nothing_is_judged_against_a_baseline_that_diverged(tmp_path):
    write_run_folder(tmp_path / "a", texts=texts(10), **DIVERGED)
    write_run_folder(tmp_path / "b", config=FLOAT16, texts=texts(0))
    runs = open_runs([tmp_path])
    assert verdicts(group_runs(runs), "test")[1].word == "not comparable"
    assert verdict_strip(runs).caption.startswith("No verdict: the baseline, float32, diverged.")


def test_of_settings_that_read_as_few_utterances_alike_none_is_the_fewest(tmp_path):
    for name, config, wrong in (("a", {}, 0), ("b", FLOAT16, 5), ("c", {"arithmetic.storage.format": "int8"}, 5)):
        write_run_folder(tmp_path / name, config=config, texts=texts(wrong))
    assert utterances(open_runs([tmp_path])).alt.endswith("as float32 does, as few as any.")


def test_tails_that_are_no_straight_lines_are_not_called_powers(tmp_path):
    bell = {exponent: int(2.0 ** (40 - exponent**2 / 3)) for exponent in range(-12, 13)}
    tensors = [one | {"counts": bell} for one in network_tensors()]
    write_watched_run(tmp_path / "a", [magnitudes_of(3, tensors)])
    caption = magnitude_distribution(open_runs([tmp_path / "a"])).caption
    assert "fall as powers" not in caption
    assert "Above the peak none falls as a power" in caption
    assert "Towards zero no power, since log2 of the shares is no straight line" in caption


def test_seeds_with_other_loss_scales_are_said_to_have_them_and_have_no_common_median(tmp_path):
    for seed, scale in ((1, 16.0), (2, 1024.0)):
        tables = [magnitudes_of(1, network_tensors()), magnitudes_of(9, network_tensors(shift=4), loss_scale=scale)]
        write_watched_run(tmp_path / f"{seed}", tables, config=FLOAT16 | {"seed": seed})
    caption = magnitude_histograms(open_runs([tmp_path]))[0].caption
    assert "the loss scale of 16 and 1024, which in float16 is not the same in all seeds" in caption
    (change,) = re.findall(r"Between step 1 and step 9 ([^.]*)\.", caption)
    assert "errors" not in change


def test_a_coordinate_that_is_zero_but_for_its_last_bits_is_written_as_zero_whatever_their_sign():
    one, other = (f'<path d="M {zero} 101.8449 L -0.25 {zero} L -0.5 -10 {zero} z "/>' for zero in ("0", "-0"))
    assert _COORDINATES.sub(_shortened, other) == _COORDINATES.sub(_shortened, one)
    assert _COORDINATES.sub(_shortened, other) == '<path d="M 0 101.84 L -0.25 0 L -0.5 -10 0 z "/>'


def test_a_name_that_is_wider_than_its_place_keeps_its_beginning_and_its_end():
    name = "float16, " + "features.kind " * 9 + "end"
    short = elided(name, 8.5, 3.2)
    assert text_width(short, 8.5) <= 3.2 < text_width(name, 8.5)
    assert (short[:7], short[-3:]) == ("float16", "end")
    assert elided("float16", 8.5, 3.2) == "float16"
