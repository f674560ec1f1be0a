"""`dsrun compare`: groups, rates, differences, notes, and each form of output, on run folders made by hand."""

import csv
import io
import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from dsrun.cli import app
from dsrun.cli_compare import print_comparison
from dsrun.errors import UsageError
from dsrun.inspection import open_runs
from dsrun.study.compare import compare_groups
from dsrun.study.groups import group_runs
from tests.study.run_folders import write_run_folder

FLOAT16 = {"arithmetic.storage.format": "float16"}
LENGTHS = np.arange(5, 45, 2)


def texts(seed, rate, lengths=LENGTHS):
    """Utterances, some of whose characters are read wrongly."""
    errors = np.random.Generator(np.random.Philox(seed)).binomial(lengths, rate)
    said = ["abcde fghij klmno pqrst uvwxy abcde fghij klmn"[:n] for n in lengths]
    return [(f"u{n:02}", s, "#" * e + s[e:]) for n, (s, e) in enumerate(zip(said, errors, strict=True))]


def write(folder, config, seed, rate, **more):
    found = {"dev": texts(2 * seed, rate), "test": texts(2 * seed + 1, rate)}
    return write_run_folder(folder, config=config | {"seed": seed}, **{"texts": found} | more)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """float32 and float16 alike, bfloat16 much worse; three seeds each."""
    tmp_path = tmp_path_factory.mktemp("sweep")
    for seed in (1, 2, 3):
        write(tmp_path / f"a-float32-{seed}", {}, seed, 0.2)
        write(tmp_path / f"b-float16-{seed}", FLOAT16, seed, 0.2)
        write(tmp_path / f"c-bfloat16-{seed}", {"arithmetic.storage.format": "bfloat16"}, seed, 0.4)
    return tmp_path


def run(*arguments):
    """stdout of the command, called in process."""
    found = CliRunner().invoke(app, ["compare", *map(str, arguments)], catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


def refusal(*arguments):
    with pytest.raises(UsageError) as error:
        CliRunner().invoke(app, ["compare", *map(str, arguments)], catch_exceptions=False)
    return str(error.value)


def test_a_worse_group_is_called_so_and_an_equal_one_is_not(sweep):
    report = json.loads(run(sweep, "--json"))
    assert [g["label"] for g in report["groups"]] == ["float32", "float16", "bfloat16"]
    assert report["keys"] == ["arithmetic.storage.format"]
    words = [[g["differences"][split]["cer"] for g in report["groups"]] for split in ("dev", "test")]
    for baseline, same, worse in words:
        assert baseline is None
        assert same["words"] == "no difference seen"
        assert same["value"] == 0  # the same errors by construction
        assert worse["words"] == "worse"
        assert worse["interval"][0] > 0
        assert (worse["seeds"], worse["utterances"], worse["paired"]) == ([1, 2, 3], 20, True)
    assert report["groups"][0]["rates"]["test"]["cer"]["utterances"] == 20


def test_another_baseline_turns_the_sign(sweep):
    report = json.loads(run(sweep, "--json", "--split", "test", "--baseline", "bfloat16"))
    assert report["splits"] == ["test"]
    assert [group["label"] for group in report["groups"]] == ["bfloat16", "float32", "float16"]
    assert report["groups"][1]["differences"]["test"]["cer"]["words"] == "better"
    by_run = json.loads(run(sweep, "--json", "--split", "dev", "--baseline", sweep / "c-bfloat16-2"))
    assert by_run["baseline"] == "bfloat16"
    assert "The groups are 'float32'; 'float16'; 'bfloat16'" in refusal(sweep, "--baseline", "float64")


def test_of_runs_the_first_is_the_baseline_and_of_a_folder_the_plain_float32(sweep, tmp_path):
    (tmp_path / "sweep").mkdir()
    for number, name in enumerate(("c-bfloat16-1", "a-float32-1")):
        (tmp_path / "sweep" / f"{number}").symlink_to(sweep / name)
    assert json.loads(run(tmp_path / "sweep", "--json", "--split", "test"))["baseline"] == "float32"
    report = json.loads(run(sweep / "c-bfloat16-1", sweep / "a-float32-1", "--json", "--split", "test"))
    assert report["baseline"] == "bfloat16"
    assert [group["is_baseline"] for group in report["groups"]] == [True, False]


def test_the_table_has_no_line_over_100_columns_and_says_the_verdicts(sweep):
    table = run(sweep, "--split", "test")
    assert "9 runs in 3 groups; baseline: float32" in table
    (line,) = [line for line in table.splitlines() if line.startswith("bfloat16") and "worse" in line]
    assert "<0.001" in line
    assert "no difference seen" in table
    assert max(map(len, table.splitlines()[:8])) <= 100


def test_many_settings_on_a_narrow_terminal_are_lists_of_what_differs_from_the_first(tmp_path, monkeypatch, capsys):
    many = {f"model.setting_{number}": "a long value" for number in range(9)}
    write(tmp_path / "a", many, 1, 0.2)
    write(tmp_path / "b", many | {"model.setting_3": "another long value", "model.hidden": 8}, 1, 0.2)
    write(tmp_path / "c", many | {"optimizer.kind": "sgd " * 12}, 1, 0.2)
    found = group_runs(open_runs([tmp_path]))
    document = compare_groups(found, found[0], splits=["test"], all_keys=True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    print_comparison(document, ("cer",))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "1  float32, hidden 16, setting_3 a long value, kind -"
    start = lines.index("2: seeds 1, and not as 1:")
    assert [line.split(":")[0].strip() for line in lines[start + 1 : start + 3]] == ["hidden", "setting_3"]
    assert lines[start + 3] == "3: seeds 1, and not as 1:"
    assert max(len(line) for line in lines if not line.startswith(("note", "test", "costs", "not shown"))) <= 80


def test_csv_has_every_figure_of_a_group_in_its_row(sweep):
    rows = list(csv.DictReader(io.StringIO(run(sweep, "--csv", "--split", "test"))))
    report = json.loads(run(sweep, "--json", "--split", "test"))["groups"]
    assert [row["group"] for row in rows] == ["float32", "float16", "bfloat16"]
    assert float(rows[2]["test_wer_difference_high"]) == report[2]["differences"]["test"]["wer"]["interval"][1]
    assert float(rows[0]["test_cer"]) == report[0]["rates"]["test"]["cer"]["value"]
    assert rows[0]["test_cer_p"] == ""
    assert rows[1]["arithmetic.storage.format"] == "float16"
    assert float(rows[1]["milliseconds_a_step"]) == 500


def test_markdown_is_the_table_of_a_results_page(sweep):
    lines = run(sweep, "--md", "--split", "dev").splitlines()
    assert (
        lines[0]
        == "| group | dev CER, by seed | dev CER | dev difference | updates that changed a weight | minutes | ms a step |"
    )
    assert lines[2].startswith("| float32 | ")
    assert "p <0.001: worse" in lines[4].replace("\\", "")


def test_by_seed_every_run_has_a_row(sweep):
    rows = list(csv.DictReader(io.StringIO(run(sweep, "--by-seed", "--csv", "--metric", "cer", "--split", "test"))))
    assert [(row["group"], row["seed"]) for row in rows[:4]] == [
        ("float32", "1"), ("float32", "2"), ("float32", "3"), ("float16", "1"),
    ]  # fmt: skip
    assert "test_wer" not in rows[0]


def test_all_keys_shows_what_is_equal_too(sweep):
    keys = json.loads(run(sweep, "--json", "--all-keys", "--split", "test"))["keys"]
    assert "model.hidden" in keys
    assert "data.test" in keys
    assert "seed" not in keys


def test_costs_and_settings_come_from_the_folder_and_a_run_without_has_none(tmp_path):
    costs = {"parameters": 1000, "bytes": {"master": {"as_formats": 4000, "as_carried": 4000},
                                           "storage": {"as_formats": 2000, "as_carried": 4000}}}  # fmt: skip
    watched = [("watch", step, {"changed_share": share}) for step, share in ((4, 1.0), (8, 0.25))]
    write(tmp_path / "a", FLOAT16, 1, 0.2, events=watched)
    (tmp_path / "a" / "costs.json").write_text(json.dumps(costs))
    write(tmp_path / "b", {}, 1, 0.2)
    (tmp_path / "b" / "parameters.txt").write_text("gru_0.w  8x8  64  float32\nall   1,064\n")
    groups = json.loads(run(tmp_path / "a", tmp_path / "b", "--json", "--split", "test"))["groups"]
    assert [group["changed_share"] for group in groups] == [0.25, None]
    new, old = (group["costs"] for group in groups)
    assert (new["parameters"], new["bytes_as_formats"], new["bytes_as_carried"]) == (1000, 6000, 8000)
    assert (old["parameters"], old["bytes_as_formats"]) == (1064, None)


def test_what_makes_a_comparison_worth_less_is_said(tmp_path):
    write(tmp_path / "a", {}, 1, 0.2)
    facts = {"git.commit": "fedcba9876", "jax.device_kinds": ["NVIDIA H100"], "data.train": "d" * 64}
    write(tmp_path / "b", FLOAT16, 1, 0.2, state="running", facts=facts)
    write(tmp_path / "c", {"determinism": "off"}, 1, 0.2, state="failed", status={"exit_code": 4})
    beam = tmp_path / "c" / "evaluation" / "test.jsonl"
    rows = [json.loads(line) | {"decoder": {"kind": "beam", "beam_width": 8}} for line in beam.read_text().splitlines()]
    beam.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for line in (first := tmp_path / "a" / "evaluation" / "test.jsonl").read_text().splitlines()[:1]:
        first.write_text(json.dumps(json.loads(line) | {"decoder": {"kind": "greedy"}}) + "\n" + "".join(
            other + "\n" for other in first.read_text().splitlines()[1:]))  # fmt: skip
    notes = " / ".join(json.loads(run(tmp_path, "--json"))["notes"])
    for words in (
        "not done (running), so their rates are of the best checkpoint so far: b",
        "diverged, so scored by the best checkpoint before if there is one: c",
        "trained on other data than float32",
        "different decoders",
        "greedy: a",
        "different commits of dsrun (0123456, fedcba9): results may differ for that too, and their times do not compare",
        "different devices (A processor, NVIDIA H100)",
        "rates on dev are of the checkpoint that was chosen by them",
        "determinism is off",
        "groups of one seed",
        "4 differences at 95% each: if none were true, one or more would be seen with a chance of up to 19%",
    ):
        assert words in notes


def test_of_a_run_without_an_evaluation_no_rate_is_spoken_of_and_no_command_is_named_that_needs_a_checkpoint(tmp_path):
    write(tmp_path / "a", {}, 1, 0.2)
    for name, state, steps in (("begun", "running", 0), ("ended", "stopped", 3)):
        write_run_folder(tmp_path / name, config=FLOAT16 | {"seed": name}, steps=steps, dev_cer=(), state=state)
    notes = json.loads(run(tmp_path, "--json"))["notes"]
    for words in (
        "not done (running) and not evaluated yet, so without rates: begun",
        "not done (stopped) and not evaluated yet, so without rates: ended",
        "no differences on dev yet of runs that are not over: begun",
        "no differences on dev of runs that ended before an evaluation: ended",
    ):
        assert words in notes
    assert not any("best checkpoint so far" in note or "dsrun eval" in note for note in notes)


def test_other_utterances_have_rates_and_no_difference(tmp_path):
    write(tmp_path / "english", {}, 1, 0.2)
    italian = {"test": [("u00", "perché no", "perche no")], "dev": [("u00", "già", "gia")]}
    write(tmp_path / "italian", {"data.test": "/corpus/it.jsonl"}, 1, 0.2, texts=italian)
    (tmp_path / "italian" / "evaluation" / "test.jsonl").rename(tmp_path / "italian" / "evaluation" / "it.jsonl")
    report = json.loads(run(tmp_path, "--json"))
    assert report["groups"][1]["differences"] == {split: {"cer": None, "wer": None} for split in ("dev", "test")}
    assert report["groups"][1]["rates"]["test"]["cer"]["value"] == 1 / 9
    assert any("was scored on other utterances or references of test" in note for note in report["notes"])
    assert "italian" in run(tmp_path)


def test_a_difference_of_some_seeds_says_which_and_shows_the_rates_that_it_is_of(tmp_path):
    """Of all seeds float16 is much worse, of the two in common better: the table must not show one beside the other in silence."""
    for config, rates in (({}, {1: 0.3, 2: 0.3, 3: 0.0, 4: 0.0}), (FLOAT16, {1: 0.1, 2: 0.1, 7: 0.6, 8: 0.6})):
        for seed, rate in rates.items():
            write(tmp_path / f"{len(config)}-{seed}", config, seed, rate)
    report = json.loads(run(tmp_path, "--json", "--split", "test"))
    baseline, group = report["groups"]
    found = group["differences"]["test"]["cer"]
    assert baseline["rates"]["test"]["cer"]["value"] < group["rates"]["test"]["cer"]["value"]
    assert found["value"] < 0
    assert found["rates"][0] - found["rates"][1] == pytest.approx(found["value"])
    by_seed = group["rates"]["test"]["cer"]["by_seed"]
    assert found["rates"][0] == pytest.approx(sum(by_seed[:2]) / 2)
    assert (found["seeds"], found["left_out"], found["baseline_left_out"]) == ([1, 2], [7, 8], [3, 4])
    assert found["method"] == "over utterances and 2 seeds; 2 in common of 4 and 4"
    note = "its difference is of seeds 1, 2, which both have; only rates have seeds 7, 8 of float16 and seeds 3, 4 of float32"
    assert any(note in told for told in report["notes"])
    assert f"{found['rates'][0]:.3f} - {found['rates'][1]:.3f}" in run(tmp_path, "--split", "test")
    assert "rates compared" not in run(*(tmp_path / f"{n}-{seed}" for n in (0, 1) for seed in (1, 2)))


def test_each_difference_says_what_its_interval_is_over(tmp_path):
    """One title for all would promise seeds to the group that has one."""
    for seed in (1, 2):
        write(tmp_path / f"a-{seed}", {}, seed, 0.2)
        write(tmp_path / f"b-{seed}", FLOAT16, seed, 0.3)
    write(tmp_path / "c", {"arithmetic.storage.format": "bfloat16"}, 1, 0.3)
    lines = run(tmp_path, "--split", "test").splitlines()
    rows = [line for line in lines if line.startswith(("bfloat16", "float16")) and "utterances" in line]
    assert ["20 utterances, 2 seeds" in row for row in rows] == [True, False]
    assert all("20 utterances" in row for row in rows)
    rows = list(csv.DictReader(io.StringIO(run(tmp_path, "--csv", "--split", "test"))))
    assert [row["test_cer_method"].partition(";")[0] for row in rows] == [
        "",
        "over utterances and 2 seeds",
        "over utterances",
    ]


def test_differences_are_counted_as_often_as_they_are_tested(sweep):
    for options, count in (((), 4), (("--split", "dev"), 2), (("--metric", "wer"), 4)):
        notes = json.loads(run(sweep, "--json", *options))["notes"]
        assert any(note.startswith(f"{count} differences at 95% each") for note in notes)


def test_runs_that_nothing_tells_apart_are_noted(tmp_path):
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        write(tmp_path / name, {}, seed, 0.2)
    notes = json.loads(run(tmp_path, "--json", "--split", "test"))["notes"]
    assert any("do not tell apart" in note and note.endswith("float32, run a / float32, run c") for note in notes)


def test_all_keys_of_configs_without_a_seed_are_shown(tmp_path):
    for name in ("a", "b"):
        config = json.loads((write(tmp_path / name, {"model.hidden": len(name)}, 1, 0.2) / "config.yaml").read_text())
        del config["seed"]
        (tmp_path / name / "config.yaml").write_text(json.dumps(config | {"named": name}))
    assert "seed" not in json.loads(run(tmp_path, "--json", "--all-keys", "--split", "test"))["keys"]


@pytest.mark.parametrize("options", [(), ("--by-seed",), ("--md",), ("--csv",), ("--json",), ("--all-keys",)])
def test_nothing_of_a_folder_is_a_command_to_the_terminal(tmp_path, options):
    bad = "\x1b[2J"
    config = {"arithmetic.storage.format": f"f{bad}", "training.epochs": bad, f"model.{bad}": 1, "seed": bad}
    about = {"status": {"state": bad}, "facts": {"git.commit": f"{bad}aaa"}, "texts": {"dev": texts(2, 0.2)}}
    write_run_folder(tmp_path / f"x{bad}", config=config, **about)
    write(tmp_path / "y", {}, 1, 0.2)
    found = CliRunner().invoke(app, ["compare", str(tmp_path), *options], catch_exceptions=False).output
    assert found
    assert "\x1b" not in found


def test_two_folders_of_one_config_and_seed_are_two_groups(tmp_path):
    for place in ("before", "after"):
        write(tmp_path / place / "run", {}, 1, 0.2, facts={"git.commit": place})
    report = json.loads(run(tmp_path / "before", tmp_path / "after", "--json"))
    assert [g["label"] for g in report["groups"]] == ["float32, commit before", "float32, commit after"]
    assert report["groups"][1]["differences"]["test"]["cer"]["interval"] == [0, 0]


def test_wrong_input_is_one_message_that_says_what_to_do(tmp_path):
    write_run_folder(tmp_path / "new" / "a", dev_cer=(), steps=0)
    write_run_folder(tmp_path / "new" / "b", dev_cer=(), steps=0, config=FLOAT16)
    assert "no such folder" in refusal(tmp_path / "nothing")
    assert "one run has nothing to be compared with" in refusal(tmp_path / "new" / "a")
    assert "one run has nothing" in refusal(tmp_path / "new" / "a", tmp_path / "new" / ".." / "new" / "a")
    assert "none of the runs (a, b) was evaluated yet on dev or test" in refusal(tmp_path / "new")
    assert "--json and --csv: choose one" in refusal(tmp_path / "new", "--json", "--csv")
