"""`dsrun eval` on results that evaluations left: no network, no JAX, in this process."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from corpus import REPOSITORY

from dsrun.cli import app
from dsrun.errors import DataError, UsageError
from dsrun.evaluation.results import Evaluation, score_utterance
from dsrun.score_reports import refuse_another_runtime

HOSTILE = "<script>alert(1)</script> \u202eevil\x1b[2J"


def write_results(path, hypotheses: dict[str, str], *, reference="go on", speakers=()):
    results = [score_utterance(id, reference, text, 1.0) for id, text in hypotheses.items()]
    results = [replace(u, seconds=1.0 + n, speaker=dict(speakers).get(u.id)) for n, u in enumerate(results)]
    path.write_text("".join(json.dumps(u.to_json()) + "\n" for u in Evaluation(tuple(results)).utterances))
    return path


def dsrun_eval(*arguments):
    """Standard output; errors are raised."""
    found = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    if found.exception:
        raise found.exception
    return found.stdout


@pytest.fixture
def results(tmp_path):
    texts = {f"u{n:02}": "go on" if n < 15 else "go in" for n in range(30)}
    return write_results(tmp_path / "first.jsonl", texts, speakers={id: f"s{id[-1]}" for id in texts})


def test_a_file_of_results_gives_rates_and_the_tables_of_where_the_errors_are(results):
    text = dsrun_eval(results)
    assert "WER       0.2500" in text
    assert "15 errors in 60 words: 15 substitutions" in text
    assert "1.00 to 10.00" in text
    assert "by speaker: 10 speakers" in text
    assert "95% interval over speakers instead of utterances" in text
    assert "misread  on > in 15/30" in text


def test_json_has_everything_that_the_text_has_and_no_infinity(results, tmp_path):
    report = json.loads(dsrun_eval(results, "--json"))
    assert report["wer"] == 0.25
    assert {"by_length", "by_speaker", "confusions", "cer_interval", "examples"} <= report.keys()
    empty = write_results(tmp_path / "empty.jsonl", {"a": "x"}, reference="")
    assert json.loads(dsrun_eval(empty, "--json"), parse_constant=pytest.fail)["wer"] is None


def test_two_files_are_compared_in_pairs(results, tmp_path):
    better = write_results(tmp_path / "second.jsonl", {f"u{n:02}": "go on" for n in range(30)})
    text = dsrun_eval(results, "--against", better)
    assert "WER  0.2500 and 0.0000: first minus second +0.2500" in text
    assert "second is better; fewer errors in 0 and 15 utterances" in text
    report = json.loads(dsrun_eval(results, "--against", better, "--json"))
    assert report["comparison"]["names"] == [str(results), str(better)]
    assert report["comparison"]["wer"]["verdict"] == "second is better"


def test_other_references_are_refused(results, tmp_path):
    other = write_results(tmp_path / "other.jsonl", {f"u{n:02}": "go" for n in range(30)}, reference="go")
    with pytest.raises(UsageError, match="same references, and 30 differ, e.g. 'u00': 'go on' and 'go'"):
        dsrun_eval(results, "--against", other)


def test_an_option_that_only_a_network_obeys_is_refused_for_files(results):
    with pytest.raises(UsageError, match="--batch: for a run"):
        dsrun_eval(results, "--against", results, "--batch", "4")
    with pytest.raises(UsageError, match="--checkpoint: for a run"):
        dsrun_eval(results, "--checkpoint", "best")


def test_a_missing_file_says_what_writes_one(tmp_path):
    with pytest.raises(DataError, match=r"no such file of results. `dsrun eval RUN` writes"):
        dsrun_eval(tmp_path / "none.jsonl")


def test_a_manifest_in_place_of_results_is_told_once_with_the_way_out(results):
    manifest = REPOSITORY / "data" / "prompts_en" / "test.jsonl"
    with pytest.raises(DataError) as caught:
        dsrun_eval(results, "--against", manifest)
    assert str(caught.value).startswith(f"{manifest}: a manifest, no results.")
    assert "\n" not in str(caught.value)


def test_control_characters_of_a_transcript_do_not_reach_the_terminal(tmp_path):
    text = dsrun_eval(write_results(tmp_path / "hostile.jsonl", {HOSTILE: HOSTILE}))
    assert "\\x1b[2J" in text
    assert not {"\x1b", "\u202e"} & set(text)


def test_a_page_is_written_and_a_name_that_cannot_be_one_is_refused_before_any_work(results, tmp_path):
    page = tmp_path / "page.html"
    assert f"page: {page}" in dsrun_eval(results, "--html", page)
    written = page.read_bytes()
    assert b"u29" in written
    assert json.loads(dsrun_eval(results, "--html", page, "--json"))["page"] == str(page)
    assert page.read_bytes() == written
    with pytest.raises(UsageError, match="ends in .html"):
        dsrun_eval(tmp_path / "none.jsonl", "--html", tmp_path / "page.pdf")
    with pytest.raises(UsageError, match="does not exist"):
        dsrun_eval(tmp_path / "none.jsonl", "--html", tmp_path / "no" / "page.html")
    notes = tmp_path / "notes.html"
    notes.write_text("<!DOCTYPE html>\nmine")
    with pytest.raises(UsageError, match="there already, and no page of dsrun's"):
        dsrun_eval(results, "--html", notes)
    assert notes.read_text() == "<!DOCTYPE html>\nmine"


def test_a_plot_needs_an_utterance_a_figures_name_and_no_option_of_scoring(results):
    for options, reason in [
        (["--plot", "u01"], "go together"),
        (["-o", "x.png"], "go together"),
        (["--plot", "u01", "-o", "x.png", "--against", results], "leave --against out"),
        (["--plot", "u01", "-o", "x.jpg"], "ends in .png or .svg"),
    ]:
        with pytest.raises(UsageError, match=reason):
            dsrun_eval(results, *options)


def test_two_runs_that_one_process_cannot_score_are_refused_before_any_work_with_the_way_out(tmp_path):
    for name, settings in [("a", ""), ("b", "batches: {shards: 4}\n"), ("c", "determinism: 'off'\n")]:
        (tmp_path / name).mkdir()
        text = f"base: {REPOSITORY}/configs/prompts_float32.yaml\n{settings}"
        (tmp_path / name / "config.yaml").write_text(text, encoding="utf-8")
    for name in "bc":
        with pytest.raises(UsageError, match="One process cannot have the settings of both.*--against"):
            dsrun_eval(tmp_path / "a", "--against", tmp_path / name)
    refuse_another_runtime(tmp_path / "a", tmp_path / "a")


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (("eval", "RUN"), "--lm-weight", "2e6"),
        (("eval", "RUN"), "--batch", "0"),
        (("eval", "RUN"), "--batch", "a few"),
        (("data", "show", "x.jsonl", "-o", "x.png"), "--epoch", "-1"),
        (("data", "check", "x.jsonl"), "--workers", "-1"),
    ],
)
def test_a_number_out_of_an_options_range_is_named_with_the_option(command, option, value):
    found = CliRunner().invoke(app, [*command, option, value])
    assert found.exit_code == 2
    assert value in found.output.partition(f"Invalid value for '{option}': ")[2]


@pytest.mark.parametrize("option", ["--lm-weight", "--word-bonus"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_an_option_that_must_be_finite_says_so(option, value):
    found = CliRunner().invoke(app, ["eval", "RUN", option, value])
    assert f"{value}: write a finite number." in found.output + str(found.exception)
