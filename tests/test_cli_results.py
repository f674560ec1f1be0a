"""docs/RESULTS.md: made of run folders, made again from records, and nothing of a machine or a transcript in either."""

import json
import re
import shlex
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dsrun.cli import app
from dsrun.errors import DataError, UsageError
from dsrun.inspection import open_runs
from dsrun.study.results_page import render_page
from dsrun.study.results_record import clean, clean_command, clean_value, read_record, record_text
from tests.study.run_folders import write_run_folder

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "configs" / "prompts_float32.yaml"
SAID = [f"press {word} for more" for word in ("one", "two", "three", "four", "five", "six", "seven", "eight")]


def texts(errors):
    """Each utterance with a misread letter at its beginning in so many of them."""
    rows = [(str(n), said, ("b" + said[1:]) if n < errors else said) for n, said in enumerate(SAID)]
    return {"dev": rows, "test": rows}


def write_sweep(folder):
    """float32 and float16 equal, bfloat16 worse, each with two seeds."""
    for name, errors in (("bfloat16", 8), ("float16", 2), ("float32", 2)):
        for seed in (1, 2):
            config = {"seed": seed, "arithmetic.storage.format": name, "data.train": "/home/me/x/data/en/train.jsonl"}
            write_run_folder(folder / f"{name}-seed={seed}", config=config, texts=texts(errors))
    return folder


def call(*arguments):
    result = CliRunner().invoke(app, ["results", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_committed_page_is_what_the_committed_records_give(monkeypatch):
    monkeypatch.chdir(ROOT)
    records = sorted(Path("docs/results").glob("*.json"))
    assert records
    call(*records, "-o", "docs/RESULTS.md", "--check")


def test_committed_records_name_no_place_of_a_machine():
    for path in [ROOT / "docs" / "RESULTS.md", *(ROOT / "docs" / "results").glob("*.json")]:
        found = path.read_text()
        for of_a_machine in ("/home/", "/Users/", "/root/", "/tmp/", "/mnt/", "/opt/", "file://", ":\\\\"):
            assert of_a_machine not in found, path
        assert re.findall(r'["=( ](?:/|~\w*/)\w+', found) == [], path


def test_the_page_from_folders_is_the_page_from_records(tmp_path):
    page = tmp_path / "docs" / "RESULTS.md"
    page.parent.mkdir()
    call(write_sweep(tmp_path / "formats"), "-o", page)
    first = page.read_bytes()
    page.unlink()
    call(*(tmp_path / "docs" / "results").glob("*.json"), "-o", page)
    assert page.read_bytes() == first


def test_float32_is_the_baseline_and_a_planted_difference_is_worse_an_equal_one_not_seen(tmp_path):
    call(write_sweep(tmp_path / "formats"), "-o", tmp_path / "RESULTS.md")
    lines = (tmp_path / "RESULTS.md").read_text().splitlines()
    (answer,) = [line for line in lines if line.startswith("Test CER against")]
    assert answer.startswith("Test CER against float32: **no difference seen**: float16 +0.0000 [")
    assert "**worse**: bfloat16 +0." in answer
    rows = [line.split(" | ")[:2] for line in lines if " | 1, 2 | " in line]
    assert rows == [["| float32", "1, 2"], ["| bfloat16", "1, 2"], ["| float16", "1, 2"]]


def test_a_record_has_errors_and_no_transcript_and_a_line_a_run(tmp_path):
    call(write_sweep(tmp_path / "formats"), "-o", tmp_path / "RESULTS.md")
    text = (tmp_path / "results" / "formats.json").read_text()
    assert "press" not in text
    assert "/home" not in text
    assert sum(line.startswith('{"name"') for line in text.splitlines()) == 6
    section = read_record(text, "here")
    assert section.runs[0].config["data.train"] == "data/en/train.jsonl"
    assert section.runs[0].results("test").characters.errors == 8
    assert section.runs[0].config["seed"] == 1


def test_what_is_not_done_is_a_note_and_not_in_the_table(tmp_path):
    folder = tmp_path / "runs"
    write_run_folder(folder / "good", texts=texts(1))
    write_run_folder(folder / "bad", state="failed", status={"exit_code": 4}, config={"seed": 2}, texts=texts(1))
    write_run_folder(folder / "half", state="stopped", status={"reason": "a signal"}, config={"seed": 3})
    call(folder, "-o", tmp_path / "RESULTS.md")
    page = (tmp_path / "RESULTS.md").read_text()
    assert "- bad diverged at step 8: its numbers were not finite." in page
    assert "- half is incomplete: stopped at step 8 (a signal); its best dev CER by then 0.3000." in page
    assert "| float32 | 1 |" in page


def test_without_a_test_set_the_answer_is_on_dev(tmp_path):
    status = {"result": {"step": 8, "cer": 0.5, "wer": 0.5}}
    folder = write_run_folder(tmp_path / "a", config={"data.test": None}, status=status, texts={"dev": texts(1)["dev"]})
    call(folder, "-o", tmp_path / "RESULTS.md")
    assert "\nDev CER: float32 0." in (tmp_path / "RESULTS.md").read_text()


def test_records_of_before_stay_and_one_of_the_same_name_is_made_anew(tmp_path):
    page = tmp_path / "RESULTS.md"
    call(write_run_folder(tmp_path / "b", texts=texts(1)), "-o", page)
    call(write_run_folder(tmp_path / "a", texts=texts(1)), "-o", page)
    assert [line for line in page.read_text().splitlines() if line.startswith("## ")] == ["## a", "## b"]
    with pytest.raises(DataError, match="without --check"):
        call(write_run_folder(tmp_path / "more" / "a", texts=texts(2)), "-o", page, "--check")


def test_a_run_of_a_sweep_has_the_sweep_as_its_command(tmp_path):
    folder = write_run_folder(tmp_path / "runs" / "sw" / "a-123456", texts=texts(1))
    folder.with_name("a-123456.yaml").write_text("# a: run 7 of /home/me/configs/sweeps/sw.yaml, resolved.\nseed: 1\n")
    call(folder.parent, "-o", tmp_path / "RESULTS.md")
    assert "```sh\ndsrun sweep configs/sweeps/sw.yaml\n```" in (tmp_path / "RESULTS.md").read_text()


def test_what_the_config_claims_is_in_the_page_where_the_file_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "example.yaml").write_text(
        "# yaml-language-server: $schema=schema.json\n# An example,\n# of two lines.\n# Claim:    as good as\n"
        "#           float32.\n# Run:      dsrun train\n# A remark.\n"
        f"base: {QUICKSTART}\n# Claim: not this\n"
    )
    call(write_run_folder(tmp_path / "a", texts=texts(1)), "-o", tmp_path / "RESULTS.md")
    page = (tmp_path / "RESULTS.md").read_text()
    assert (
        "- `configs/example.yaml`: An example, of two lines. The file's own claim, not judged here: as good as float32.\n"
        in page
    )


@pytest.mark.parametrize(
    "file", ["../secret.yaml", "{above}/secret.yaml", "notes.conf", "notes.yaml", "link.yaml", "missing.yaml"]
)
def test_a_folder_cannot_have_a_file_of_the_reader_published(tmp_path, monkeypatch, file):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    secret = f"# hunter2\nbase: {QUICKSTART}\n"
    (tmp_path / "secret.yaml").write_text(secret)
    (here / "notes.conf").write_text(secret)
    (here / "notes.yaml").write_text("# hunter2\npassword: x\n")  # no experiment
    (here / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    folder = write_run_folder(tmp_path / "runs" / "a", texts=texts(1))
    (folder / "command.txt").write_text(f"dsrun train --config {file.format(above=tmp_path)}\n")
    call(folder, "-o", here / "RESULTS.md")
    assert "hunter2" not in (here / "RESULTS.md").read_text() + (here / "results" / "a.json").read_text()


@pytest.mark.parametrize("command", ["dsrun sweep", "", "dsrun", "x\x00", "dsrun train --config", "'"])
def test_a_command_that_names_no_file_has_no_claim(tmp_path, command):
    folder = write_run_folder(tmp_path / "a", texts=texts(1))
    (folder / "command.txt").write_text(command + "\n")
    assert read_record(record_text("a", open_runs([folder]), is_experiment=lambda path: True), "a").claims == ()


def test_a_strangers_record_cannot_leave_its_place_in_the_page(tmp_path):
    record = json.loads(record_text("a", open_runs([write_run_folder(tmp_path / "a", texts=texts(1))])))
    record["runs"][0]["command"] = "x\n```\n\n<img src=x>\n# Forged ````\x1b[2J"
    record["claims"] = [{"file": "a`\n\n# Forged\n\n`", "about": "\u202ex", "claim": "<b>"}]
    page = render_page([read_record(json.dumps(record), "a.json")], command="x", records="y").splitlines()
    assert [line for line in page if line.startswith(("#", "<"))] == ["# Results", "## a"]
    assert "- `` a` # Forged ` ``: \\\\u202ex The file's own claim, not judged here: \\<b\\>" in page
    fence = page.index("`````sh")
    assert page[fence + 1 : fence + 3] == ["x ``` <img src=x> # Forged ````\\x1b[2J", "`````"]


def test_a_record_that_is_no_text_is_told(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        call(tmp_path / "a.json", "-o", tmp_path / "RESULTS.md")


def test_numbers_that_are_none_are_null_in_a_record_which_can_be_read_again(tmp_path):
    events = [("watch", 8, {"swallowed_share": "all"})]
    folder = write_run_folder(tmp_path / "a", texts=texts(1), events=events)
    (folder / "provenance.json").write_text('{"determinism": NaN}')
    assert read_record(record_text("a", open_runs([folder])), "a").runs[0].measured["swallowed_share"] is None


def test_a_killed_run_is_so_in_the_record_and_a_folder_of_its_name_here_does_not_matter(tmp_path, monkeypatch):
    folder = write_run_folder(tmp_path / "a" / "b", texts=texts(1), state="running")
    (folder / ".lock").write_text(f"process 1 on host {socket.gethostname()}\n")
    assert read_record(record_text("a", open_runs([folder])), "a").runs[0].state == "killed"
    (folder / ".lock").unlink()
    text = record_text("a", open_runs([folder]))
    (folder / ".lock").write_text(f"process 1 on host {socket.gethostname()}\n")
    monkeypatch.chdir(tmp_path)
    assert read_record(text, "a").runs[0].state == "running"


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("/opt/venv/bin/dsrun train --config configs/a.yaml", "dsrun train --config configs/a.yaml"),
        ("/x/dsrun/__main__.py train --run-dir /tmp/runs/a", "dsrun train --run-dir runs/a"),
        ("dsrun train --set data.train=/tmp/here/train.jsonl", "dsrun train --set data.train=train.jsonl"),
        ("dsrun train --set 'a=[1.0, 2]' --config /a/data/b/configs/c.yaml", "dsrun train --set 'a=[1.0, 2]' --config configs/c.yaml"),
        ("dsrun train --set 'unclosed /tmp/data/x", "dsrun train --set 'unclosed data/x"),
        ("/me/bin/dsrun --verbose train --config /me/configs/a.yaml", "dsrun train --config configs/a.yaml"),
        ("/me/train_many.py --config /me/configs/a.yaml train", "train_many.py --config configs/a.yaml train"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_command_is_shown_without_what_is_of_a_machine(typed, shown):
    assert clean_command(typed) == shown


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/home/john doe/corpus/x.jsonl", "x.jsonl"),
        ("/mnt/john doe/x y.jsonl", "x y.jsonl"),
        ("file:///home/john/x.jsonl", "x.jsonl"),
        ("file://host/home/john/x.jsonl", "x.jsonl"),
        ("C:\\Users\\john\\x.jsonl", "x.jsonl"),
        ("C:\\Users\\john", "~"),
        ("C:/Users/john doe/configs/x.yaml", "configs/x.yaml"),
        ("\\\\server\\john\\x.jsonl", "x.jsonl"),
        ("~john/x.jsonl", "x.jsonl"),
        ("~/secret/x.jsonl", "x.jsonl"),
        ("/home/jöhn/x.jsonl", "x.jsonl"),
        ("/home/john", "~"),
        ("/root/x.jsonl", "x.jsonl"),
    ],
)
def test_no_form_of_a_path_names_a_user(path, kept):
    assert clean_value(path) == kept
    assert clean_command(shlex.join(["dsrun", "train", "--set", f"data.train={path}"])) == shlex.join(
        ["dsrun", "train", "--set", f"data.train={kept}"]
    )


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("cannot read /home/john doe/x.jsonl, line 3", "cannot read x.jsonl, line 3"),
        ("'/home/john/x.jsonl': damaged", "'x.jsonl': damaged"),
        ("see file:///home/john/x and ~john/y", "see x and y"),
        ("C:\\Users\\john doe\\x.jsonl: damaged", "x.jsonl: damaged"),
        ("host:/export/john/x", "host:x"),
    ],
)
def test_paths_in_a_sentence_are_shortened_and_the_sentence_is_not(said, kept):
    assert clean(said) == kept


def test_ratios_and_addresses_are_no_paths():
    for text in ("1/2 and 3/4", "https://example.org/a/b", "configs/a.yaml", "a / b", "float32/float16"):
        assert clean(text) == text


def test_a_damaged_record_or_one_of_another_version_is_told_with_its_place():
    good = json.loads(record_text("a", []))
    with pytest.raises(DataError, match="results/a.json: a record of version 2"):
        read_record(json.dumps(good | {"schema_version": 2}), "results/a.json")
    for text in ("", "[]", "{}", json.dumps(good | {"runs": [{}]}), json.dumps(good | {"runs": 1})):
        with pytest.raises(DataError, match="results/a.json: no record of results"):
            read_record(text, "results/a.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("utterances", 0, "ids", 0), []),
        (("utterances", 0, "characters", 0), None),
        (("utterances", 0, "words", 0), -1),
        (("utterances", 0, "characters", 0), 10**400),
        (("runs", 0, "results", "test", "characters", 0, 0), 10**400),
        (("runs", 0, "measured", "training_seconds"), 10**400),
        (("runs", 0, "status", "step"), 10**400),
        (("runs", 0, "measured", "steps"), "x"),
        (("runs", 0, "events", 0, "step"), 1.5),
        (("runs", 0, "results", "test", "of"), 9),
        (("runs", 0, "results", "test", "words", 0, 0), "x"),
        (("runs", 0, "provenance", "packages"), "x"),
        (("config", "seed"), []),
    ],
)
def test_a_figure_of_another_type_is_told_and_no_crash(tmp_path, path, value):
    record = json.loads(record_text("a", open_runs([write_run_folder(tmp_path / "a", texts=texts(1))])))
    node = record
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(DataError, match="no record of results"):
        read_record(json.dumps(record), "a.json")


def test_somebodys_page_and_two_folders_of_one_name_are_refused(tmp_path):
    one, two = (write_run_folder(tmp_path / place / "a", texts=texts(1)) for place in ("x", "y"))
    with pytest.raises(UsageError, match="two folders of the same name"):
        call(one, two, "-o", tmp_path / "RESULTS.md")
    (tmp_path / "RESULTS.md").write_text("# My notes\n")
    for words, missing in (
        ([], "Say run folders or records and the page, -o FILE.md. Example: dsrun results"),
        ([tmp_path], "Say the page, -o FILE.md. Example"),
        (["-o", tmp_path / "a.md"], "Say run folders or records. Example"),
    ):
        with pytest.raises(UsageError, match=missing):
            call(*words)
    with pytest.raises(UsageError, match="no results page"):
        call(one, "-o", tmp_path / "RESULTS.md")
    call(one, two, "--name", "both", "-o", tmp_path / "PAGE.md")
    assert "## both" in (tmp_path / "PAGE.md").read_text()
