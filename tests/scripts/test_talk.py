"""The talk's claims: rules of verdicts, a folder's parts that go on where they were, and the table."""

import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scripts.talk import equal_runs, on_bits, on_probabilities, on_speed, on_sums
from scripts.talk.__main__ import main
from scripts.talk.claims import Claim, Judged, MissingError, NotHereError, as_good, loses
from scripts.talk.ctc_on_corpus import plain_probability
from scripts.talk.evidence import Evidence, spread
from scripts.talk.on_formats import brings_back
from scripts.talk.pages import CLAIMS, MARKS, Row, in_short, judge, judge_all, markdown, write_pages
from scripts.talk.parts import Part, Settings, Step, all_parts, variations
from scripts.talk.running import Running, StoppedError, UsageError, alone_in, begin, minutes_left, read_state, say
from scripts.talk.versus import Versus
from tests.reference.ctc import enumerate_paths

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("low", "high", "good", "worse"),
    [
        (-0.002, 0.003, "agrees", "differs"),  # nothing seen, and too narrow for a loss of the margin
        (-0.004, 0.020, "cannot tell", "cannot tell"),  # contains zero and the margin: neither follows
        (0.002, 0.006, "agrees", "agrees"),  # worse, by less than the margin
        (0.030, 0.050, "differs", "agrees"),
        (-0.050, -0.030, "agrees", "differs"),
    ],
)
def test_neither_as_good_nor_worse_follows_from_an_interval_that_only_contains_zero(low, high, good, worse):
    assert as_good(low, high) == good
    assert loses(low, high) == worse


@pytest.mark.parametrize(
    ("remedy", "lost", "gain", "verdict"),
    [
        ("agrees", "agrees", "agrees", "agrees"),
        ("differs", "agrees", "cannot tell", "differs"),
        ("differs", "cannot tell", "cannot tell", "differs"),
        (
            "agrees",
            "agrees",
            "differs",
            "cannot tell",
        ),  # the remedy is as good, nearest lost, and the gain was not seen
        ("agrees", "cannot tell", "agrees", "cannot tell"),
        ("cannot tell", "agrees", "agrees", "cannot tell"),
    ],
)
def test_only_a_remedy_that_itself_loses_is_refuted(remedy, lost, gain, verdict):
    assert brings_back(remedy, lost, gain) == verdict


def test_the_interval_of_a_share_stays_between_0_and_1_and_shrinks():
    for count, total in ((0, 20), (20, 20), (3, 20)):
        low, high = on_probabilities.wilson(count, total)
        assert 0 <= low <= count / total <= high <= 1
    # Wilson 1927 for 3 of 20.
    assert on_probabilities.wilson(3, 20) == pytest.approx((0.0524, 0.3604), abs=1e-3)
    assert on_probabilities.wilson(0, 20)[1] > on_probabilities.wilson(0, 200)[1] > 0


def test_plain_products_give_the_sum_over_all_paths_until_they_underflow():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for labels in ([], [1], [1, 1], [2, 1, 2]):
        loss, _ = enumerate_paths(logits, labels)
        assert plain_probability(probabilities, labels, np.float64) == pytest.approx(np.exp(-loss), rel=1e-12)
    uniform = np.full((100, 29), 1 / 29)  # 29**-100 times the number of paths is about 1e-140
    assert plain_probability(uniform, [1, 2, 3], np.float32) == 0.0
    assert 0.0 < plain_probability(uniform, [1, 2, 3], np.float64) < 1e-120


def _write(folder, name, document):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def _sums(float16_mean, *, error=0.002):
    row = {"draws": 10_000, "standard_error": error, "at_start": 0.0, "unrounded": 101.00021362304688}
    rows = [
        row | {"format": name, "accumulator": wide or name, "rounding": mode, "mean": mean}
        for name in on_sums.FORMATS
        for mode, wide, mean in (
            ("ties_to_even", "", 100.0),
            ("stochastic", "", float16_mean),
            ("ties_to_even", "float32", 101.0),
        )
    ]
    return {"sums": rows}


def _verdict(module, name, folder):
    return judge(next(claim for claim in module.CLAIMS if claim.name == name), Evidence(folder)).verdict


def test_a_mean_agrees_within_four_standard_errors_and_differs_beyond(tmp_path):
    _write(tmp_path, "sums/accumulate.json", _sums(101.005))
    assert _verdict(on_sums, "sum_stochastic", tmp_path) == "agrees"
    assert _verdict(on_sums, "sum_nearest", tmp_path) == "agrees"
    assert _verdict(on_sums, "sum_master", tmp_path) == "agrees"
    assert _verdict(on_sums, "sum_exactly", tmp_path) == "differs"  # the talk's slip
    _write(tmp_path, "sums/accumulate.json", _sums(101.05))
    assert _verdict(on_sums, "sum_stochastic", tmp_path) == "differs"


def test_the_update_with_the_minus_runs_away(tmp_path):
    assert _verdict(on_sums, "cartoon_sign", tmp_path) == "differs"


@pytest.mark.parametrize(
    ("again", "control", "verdict"),
    [(True, False, "agrees"), (False, False, "differs"), (True, True, "not testable here")],
)
def test_equal_bits_mean_nothing_where_the_control_is_equal_too(tmp_path, again, control, verdict):
    kind = {"what": "tensor hashes", "steps": 52, "equal_up_to": 52, "first_different": None}
    rows = [
        {"case": case, "same": same, "compared": [kind], "first_different": None if same else 3}
        for case, same in (("again", again), ("control", control))
    ]
    _write(tmp_path, "bits/runs.json", {"rows": rows})
    assert _verdict(on_bits, "same_run", tmp_path) == verdict
    assert _verdict(on_bits, "devices", tmp_path) == "not testable here"  # one device only


def test_every_claim_has_a_rule_a_part_and_a_verdict_even_of_an_empty_folder(tmp_path):
    rows = judge_all(Evidence(tmp_path))
    assert len({row.claim.name for row in rows}) == len(rows) == len(CLAIMS)
    parts = all_parts(Settings(tmp_path))
    for row in rows:
        assert row.judged.verdict in MARKS
        assert row.claim.rule
        assert row.claim.part in parts
    text = markdown(rows, {})
    assert text.count("\n| ") == 2 * len(rows) + 4
    assert "were not run" in in_short(rows)


def test_a_folder_without_runs_has_its_table_and_no_page_yet(tmp_path, capsys):
    assert write_pages(tmp_path) == [tmp_path / "talk.json", tmp_path / "talk.md"]
    assert "once there is a run" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "talk.json").read_text())["claims"]) == len(CLAIMS)


def test_no_step_writes_into_a_run_folder(tmp_path):
    # A run folder that holds anything else before its training is nobody's, and is refused.
    for part in all_parts(Settings(tmp_path)).values():
        for step in part.steps:
            try:
                words = step.words()
            except MissingError:
                continue
            runs = [words[i + 1] for i, word in enumerate(words) if word == "--run-dir"]
            assert str(tmp_path / part.name) not in runs


@pytest.mark.parametrize("text", ['{"sums": [', "[1]", "{}", '{"sums": []}', '{"sums": [{}]}', '{"sums": 3}', "null"])
@pytest.mark.parametrize(
    "name", ["sums/accumulate", "ctc/untrained", "bits/runs", "speed/step", "parts", "sweep/seed_1"]
)
def test_a_damaged_document_costs_its_claims_and_no_other(tmp_path, name, text):
    _write(tmp_path, "sums/cartoon.json", {})
    path = tmp_path / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    write_pages(tmp_path)
    found = {claim["name"]: claim for claim in json.loads((tmp_path / "talk.json").read_text())["claims"]}
    assert len(found) == len(CLAIMS)
    assert found["cartoon_sign"]["verdict"] == "differs"
    assert found["sum_nearest"]["verdict"] == "not run"
    assert "part sums" in found["sum_nearest"]["measured"]


def test_a_claim_that_cannot_be_tested_here_says_why():
    def cannot(evidence):
        raise NotHereError("no GPU")

    claim = Claim("x", "x", "1", "x", "x", "speed", "x", cannot)
    assert judge(claim, None) == Judged("not testable here", "no GPU")


def test_toy_sizes_are_said_at_every_verdict():
    claim = CLAIMS[0]
    row = Row(claim, Judged("agrees", "1"), is_tiny=True)
    assert row.verdict == "tiny: agrees"
    assert "trial" in in_short([row])


def _bench(folder, platform, *, fma=None, ratio=1.0):
    """Reports of the benches as they would be on this platform; bfloat16 takes `ratio` of float32's time."""
    shares = {
        "share_of_measured_peak": 0.4,
        "share_of_measured_peak_quartiles": [0.3, 0.5],
        "share_of_datasheet_fma_peak": fma,
    }
    machine = {"machine": {"platform": platform, "jax": "0", "devices": 1}}
    times = (("float32", 1.0), ("bfloat16", ratio))
    layers = [
        {"pass": "both", "format": name, "size": "64x800x1760", "seconds_median": t, "seconds_lower_quartile": 0.95 * t}
        | {"seconds_upper_quartile": 1.05 * t}
        | shares
        for name, t in times
    ]
    times_a_step = {
        "seconds_a_step_median": 1.0,
        "seconds_a_step_lower_quartile": 0.9,
        "seconds_a_step_upper_quartile": 1.1,
    }
    _write(folder, "speed/step.json", machine | {"whole": shares | times_a_step})
    _write(folder, "speed/gru.json", machine | {"rows": layers})


@pytest.mark.parametrize(
    ("platform", "fma", "verdict"),
    [
        ("cpu", None, "not testable here"),
        ("gpu", None, "not testable here"),
        ("gpu", 0.29, "differs"),
        ("gpu", 0.56, "cannot tell"),  # 50.9% to 62.2% between the quartiles
        ("gpu", 0.62, "agrees"),
    ],
)
def test_a_share_of_the_fma_peak_is_judged_on_a_gpu_with_a_data_sheet_and_told_anywhere(
    tmp_path, platform, fma, verdict
):
    _bench(tmp_path, platform, fma=fma)
    assert _verdict(on_speed, "one_gpu", tmp_path) == verdict
    found = judge(next(claim for claim in CLAIMS if claim.name == "one_gpu"), Evidence(tmp_path))
    assert "40% (quartiles 30%, 50%)" in found.measured


@pytest.mark.parametrize(
    ("fma", "efficiency", "verdict"),
    [
        (0.19, 0.95, "differs"),  # well spread over eight, and slow on each of them
        (0.47, 0.869, "cannot tell"),
        (0.60, 0.80, "agrees"),
    ],
)
def test_eight_gpus_are_judged_by_the_share_that_the_claim_names_and_not_by_efficiency(
    tmp_path, fma, efficiency, verdict
):
    times = {"seconds_a_step_median": 1.0, "seconds_a_step_lower_quartile": 0.9, "seconds_a_step_upper_quartile": 1.1}
    ratios = {
        "speed_up": 4 * efficiency,
        "speed_up_quartiles": [3.0, 4.0],
        "efficiency": efficiency,
        "relative_to_devices": 2,
    }
    row = {"devices": 8, "share_of_datasheet_fma_peak": fma} | times | ratios
    _write(tmp_path, "speed/scaling.json", {"machine": {"platform": "gpu"}, "rows": [row]})
    _write(tmp_path, "speed/deep_speech_2.json", {"model": {"rows": [{"devices": 8, "tree_efficiency": 0.9}]}})
    assert _verdict(on_speed, "eight_gpus", tmp_path) == verdict
    found = judge(next(claim for claim in CLAIMS if claim.name == "eight_gpus"), Evidence(tmp_path))
    assert f"efficiency to 2 {efficiency:.3f} (quartiles 0.750, 1.000)" in found.measured


@pytest.mark.parametrize(("ratio", "verdict"), [(0.5, "agrees"), (1.0, "cannot tell"), (2.0, "differs")])
def test_smaller_formats_are_faster_where_the_quartiles_are_apart(tmp_path, ratio, verdict):
    _bench(tmp_path, "gpu", ratio=ratio)
    assert _verdict(on_speed, "faster", tmp_path) == verdict
    _bench(tmp_path, "cpu", ratio=ratio)
    assert _verdict(on_speed, "faster", tmp_path) == "not testable here"


def _gap(value, half, seeds=(1, 2, 3)):
    """A difference as `statistics.difference` gives one."""
    return SimpleNamespace(value=value, low=value - half, high=value + half, p=0.5, seeds=seeds, method="over a test")


class Told(Evidence):
    """Rates and differences as a test wants them; notes who was asked for."""

    def __init__(self, folder, differences=None):
        super().__init__(folder)
        self.differences, self.asked = differences or {}, set()

    def group(self, variation):
        self.asked.add(variation)
        raise MissingError("no runs in this test")

    def rate(self, variation):
        self.asked.add(variation)
        return SimpleNamespace(value=0.43, low=0.40, high=0.46, seeds_low=0.41, seeds_high=0.45, seeds=(1, 2, 3))

    def versus(self, variation, baseline="float32"):
        self.asked |= {variation, baseline}
        return Versus(variation, baseline, _gap(*self.differences.get((variation, baseline), (0.05, 0.01))))


def test_a_seed_that_diverged_counts_as_lost_and_one_seed_tells_nothing():
    assert Versus("a", "b", None, lost=(1, 2, 3)).loses() == "agrees"
    assert Versus("a", "b", None, lost=(1, 2, 3)).as_good() == "differs"
    assert Versus("a", "b", None, lost=(1,)).loses() == "cannot tell"
    survivors = Versus("a", "b", _gap(0.001, 0.004, seeds=(1, 2)), lost=(3,))
    assert (survivors.as_good(), survivors.loses()) == ("cannot tell", "cannot tell")
    assert "seed 3 diverged, counted as lost" in survivors.words
    assert Versus("a", "b", _gap(0.03, 0.01, seeds=(1, 2)), lost=(3,)).loses() == "agrees"
    alone = Versus("a", "b", _gap(0.05, 0.01, seeds=(2,)), absent=(1, 3))
    assert (alone.as_good(), alone.loses()) == ("cannot tell", "cannot tell")
    assert "over a test (seed 2)" in alone.words
    assert "seeds 1, 3 not complete on both sides, left out" in alone.words


def test_the_sweep_trains_what_the_claims_ask_for_and_nothing_else(tmp_path):
    names = variations(Path("configs/sweeps/talk.yaml"))
    assert len(set(names)) == len(names)
    evidence = Told(tmp_path)
    for claim in CLAIMS:
        judge(claim, evidence)
    assert evidence.asked == {*names}


@pytest.mark.parametrize(
    ("stochastic", "nearest", "gain", "verdict"),
    [
        ((0.001, 0.006), (0.05, 0.01), (0.049, 0.01), "agrees"),
        ((0.011, 0.004), (0.02, 0.010), (0.009, 0.010), "cannot tell"),  # as good, and its gain is not seen
        ((0.001, 0.006), (0.002, 0.006), (0.001, 0.006), "cannot tell"),  # nearest loses nothing: nothing to bring back
        ((0.040, 0.010), (0.05, 0.01), (0.010, 0.02), "differs"),  # it loses itself
        ((0.010, 0.020), (0.05, 0.01), (0.040, 0.01), "cannot tell"),
    ],
)
def test_stochastic_rounding_recovers_only_what_nearest_has_lost(tmp_path, stochastic, nearest, gain, verdict):
    narrow = ("bfloat16_stochastic", "bfloat16_nearest")
    told = {(narrow[0], "float32"): stochastic, (narrow[1], "float32"): nearest, (narrow[1], narrow[0]): gain}
    found = judge(next(claim for claim in CLAIMS if claim.name == "recovers_bfloat16"), Told(tmp_path, told))
    assert found.verdict == verdict
    if stochastic[0] < stochastic[1]:
        assert "no difference seen" in found.measured
    if nearest[0] < nearest[1]:
        assert "no loss of nearest was seen" in found.measured


def _part(folder, *codes):
    """Steps of Python programs that print, each ending with its code."""
    steps = [Step(f"step_{i}", ["-c", f"import sys; print('{{}}'); sys.exit({code})"]) for i, code in enumerate(codes)]
    return Part("trial", 1, "a trial", tuple(steps))


def test_a_part_that_is_done_is_not_run_again_and_one_that_failed_is(tmp_path):
    settings = Settings(tmp_path / "folder")
    begin(settings)
    assert Running(settings, {"trial": _part(tmp_path, 0, 3)}, ["trial"]).run() == ["trial"]
    state = read_state(settings.folder)["trial"]
    assert (state["state"], state["step"]) == ("failed", "step_1")
    assert "exit code 3" in state["reason"]
    first = settings.folder / "trial" / "step_0.json"
    before = first.stat().st_mtime_ns
    assert not (settings.folder / "trial" / "step_1.json").exists()
    assert Running(settings, {"trial": _part(tmp_path, 0, 0)}, ["trial"]).run() == []
    assert first.stat().st_mtime_ns == before
    assert read_state(settings.folder)["trial"]["state"] == "done"


def test_a_failed_part_does_not_end_the_others_and_is_told_in_the_table(tmp_path):
    settings = Settings(tmp_path / "folder")
    begin(settings)
    good = Part("ctc", 1, "a trial", (Step("other", ["-c", "print('{}')"]),))
    bad = Part("sums", 1, "a trial", (Step("accumulate", ["-c", "raise SystemExit('no such thing')"]),))
    assert Running(settings, {"sums": bad, "ctc": good}, ["sums", "ctc"]).run() == ["sums"]
    assert (settings.folder / "ctc" / "other.json").is_file()
    found = judge(next(claim for claim in CLAIMS if claim.name == "sum_nearest"), Evidence(settings.folder))
    assert found.verdict == "not run"
    assert "no such thing" in found.measured


def test_a_part_that_goes_on_tries_its_other_steps_and_is_failed_all_the_same(tmp_path):
    settings = Settings(tmp_path / "folder")
    begin(settings)
    part = replace(_part(tmp_path, 3, 0), goes_on=True)
    assert Running(settings, {"trial": part}, ["trial"]).run() == ["trial"]
    assert (settings.folder / "trial" / "step_1.json").is_file()
    assert read_state(settings.folder)["trial"]["step"] == "step_0"


def test_a_step_that_lacks_an_earlier_one_fails_with_the_part_that_brings_it(tmp_path):
    settings = Settings(tmp_path / "folder")
    begin(settings)
    parts = all_parts(settings)
    assert Running(settings, parts, ["learned"]).run() == ["learned"]
    assert "part sweep" in read_state(settings.folder)["learned"]["reason"]


def test_what_is_done_says_at_which_commit_when_that_is_another_one(tmp_path, capsys, monkeypatch):
    settings = Settings(tmp_path / "folder")
    begin(settings)
    monkeypatch.setattr(Running, "commit", "aaaaaaa")
    Running(settings, {"trial": _part(tmp_path, 0)}, ["trial"]).run()
    assert read_state(settings.folder)["trial"]["commits"] == {"step_0": "aaaaaaa"}
    Running(settings, {"trial": _part(tmp_path, 0)}, ["trial"]).run()
    assert "remove" not in capsys.readouterr().err
    monkeypatch.setattr(Running, "commit", "bbbbbbb")
    Running(settings, {"trial": _part(tmp_path, 0)}, ["trial"]).run()
    assert "done before at commit aaaaaaa, and this is bbbbbbb: remove" in capsys.readouterr().err
    assert Evidence(settings.folder).commits == {"aaaaaaa": ["trial"]}


def test_the_time_left_begins_with_the_plan_and_follows_what_is_seen_without_a_leap():
    assert minutes_left(43, took=0, begun=0, share=0) == pytest.approx(43)
    # Eight times slower than planned, told every minute: no estimate is twice the one before, or below half of the truth after a while.
    told = [minutes_left(43, took=n, begun=0, share=n / (8 * 43)) for n in range(1, 300)]
    assert all(later < 2 * earlier for earlier, later in itertools.pairwise(told))
    assert all(left > (8 * 43 - n) / 2 for n, left in enumerate(told, start=1) if n > 10)
    # What another process did before is not this one's speed.
    assert minutes_left(40, took=10, begun=0.5, share=0.75) == pytest.approx(10, rel=0.1)


def test_a_part_over_its_plan_is_not_said_to_end_at_once_and_slows_the_later_ones(tmp_path):
    now, later = (replace(_part(tmp_path, 0), name=name, minutes=2) for name in ("now", "later"))
    running = Running(Settings(tmp_path), {"now": now, "later": later}, ["now", "later"])
    assert running._left(now, 0.5) == pytest.approx(1.5 + 2)
    assert running._left(now, 8.0) == pytest.approx(2 + 2 * (8 + 2) / 2)


def test_a_log_cannot_colour_the_terminal(capsys):
    say("\x1b[31mred\x1b[0m\u202eback")
    assert capsys.readouterr().err.strip().endswith("[U+001B][31mred[U+001B][0m[U+202E]back")


def test_a_folder_of_another_size_or_of_somebody_else_is_refused(tmp_path):
    begin(Settings(tmp_path / "a", "tiny"))
    with pytest.raises(UsageError, match="begun with"):
        begin(Settings(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not begun by this script"):
        begin(Settings(tmp_path / "b"))
    (tmp_path / "c").write_text("a file")
    with pytest.raises(UsageError, match="another --folder"):
        begin(Settings(tmp_path / "c"))


def test_two_processes_do_not_run_parts_in_one_folder(tmp_path):
    with alone_in(tmp_path), pytest.raises(UsageError, match="--only report"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


def test_a_signal_stops_the_step_and_keeps_what_was_done(tmp_path):
    settings = Settings(tmp_path / "folder")
    begin(settings)
    mark = tmp_path / "started"
    slow = f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(60)"
    part = Part("trial", 1, "a trial", (Step("quick", ["-c", "print('{}')"]), Step("slow", ["-c", slow])))
    wait = f"while not pathlib.Path({str(mark)!r}).exists(): time.sleep(0.01)"
    killer = f"import os, pathlib, time\n{wait}\nos.kill({os.getpid()}, {int(signal.SIGTERM)})"
    other = subprocess.Popen([sys.executable, "-c", killer])  # the signal goes to whoever waits for the step
    with pytest.raises(StoppedError) as stopped:
        Running(settings, {"trial": part}, ["trial"]).run()
    other.wait()
    assert stopped.value.code == 75
    assert (settings.folder / "trial" / "quick.json").is_file()
    assert not (settings.folder / "trial" / "slow.json").exists()
    assert read_state(settings.folder)["trial"]["state"] == "stopped"


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (SystemExit(75), -signal.SIGTERM),
        (SystemExit(130), -signal.SIGINT),
        (subprocess.TimeoutExpired("x", 1), -signal.SIGKILL),
    ],
)
def test_no_training_of_part_bits_outlives_it(tmp_path, monkeypatch, ending, code):
    bench = equal_runs.Bench(tmp_path, ())
    sleeping = lambda run, sets, devices: subprocess.Popen(["sleep", "60"], process_group=0)  # noqa: E731
    monkeypatch.setattr(bench, "_start", sleeping)
    with pytest.raises(type(ending)), bench._training(tmp_path / "first", (), 1) as process:
        raise ending
    assert process.returncode == code


def test_a_training_that_ended_by_itself_is_not_killed_again(tmp_path, monkeypatch):
    bench = equal_runs.Bench(tmp_path, ())
    monkeypatch.setattr(bench, "_start", lambda run, sets, devices: subprocess.Popen(["true"], process_group=0))
    with bench._training(tmp_path / "first", (), 1) as process:
        process.wait()
        process.kill()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "speeed"], "no such part"),
        (["--jobs", "0"], "at least 1"),
        (["--full"], "needs manifests"),
        (["--tiny", "--data", "a", "b", "c"], "brings its own data"),
        (["--data", "a", "b", "c"], "no such file"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--folder", str(tmp_path / "folder")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()


def test_listing_and_printing_run_nothing(tmp_path, capsys):
    for option in ("--list", "--print"):
        assert main([option, "--folder", str(tmp_path / "folder")]) == 0
    said = capsys.readouterr().out
    assert "sweep" in said
    assert "dsrun sweep configs/sweeps/talk.yaml" in said
    assert not (tmp_path / "folder").exists()


def test_a_spread_that_is_one_number_is_said_once():
    assert spread([0.5, 0.5001], digits=2) == "0.50"
    assert spread([0.5, 0.25], digits=2) == "0.25 to 0.50"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_script_runs_to_its_end_with_toy_sizes_and_says_that_they_are(tmp_path):
    command = [sys.executable, "-m", "scripts.talk", "--tiny", "--folder", str(tmp_path / "talk")]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    document = json.loads((tmp_path / "talk" / "talk.json").read_text())
    assert all(claim["verdict"].startswith("tiny: ") for claim in document["claims"])
    assert not [claim for claim in document["claims"] if claim["verdict"] == "tiny: not run"]
    page = (tmp_path / "talk" / "talk.html").read_bytes()
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert again.returncode == 0
    assert (tmp_path / "talk" / "talk.html").read_bytes() == page
