"""`dsrun report`: what the page says, that it is the same bytes anywhere, and that nobody's text becomes markup or loses a file."""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dsrun.cli import app
from dsrun.errors import UsageError
from dsrun.inspection import open_runs
from dsrun.record import durable
from dsrun.study.compare import baseline_of
from dsrun.study.exhibit import Exhibit
from dsrun.study.figure_files import Picture, draw
from dsrun.study.groups import group_runs
from dsrun.study.report import check_output, figures_folder, make_report, with_baseline_first, write_report
from dsrun.study.report_page import Item, render_page
from dsrun.study.runs_table import commands, notes, run_names
from tests.study.figure_checks import check_figure
from tests.study.run_folders import write_run_folder

HOSTILE = "<script>alert(1)</script>\u202e$x^2$"
VOID = {"meta", "br", "source", "img"}
FLOAT16 = {"arithmetic.storage.format": "float16", "arithmetic.master.format": "none"}
STOCHASTIC = {**FLOAT16, "arithmetic.update.rounding": "stochastic"}
DIVERGED = {"exit_code": 4, "reason": "11 steps in a row without a finite gradient"}
WORDS = ["start", "stop", "play", "turn", "volume", "call", "open", "close", "window", "night"]


def spoken(every: int, count: int = 30) -> list[tuple[str, str, str]]:
    """Utterances of which each `every`th word's first letter was read as another."""
    rows = []
    for number in range(count):
        words = [WORDS[(number + place) % len(WORDS)] for place in range(4)]
        read = ["x" + w[1:] if (number * 4 + place) % every == 0 else w for place, w in enumerate(words)]
        rows.append((f"u{number}", " ".join(words), " ".join(read)))
    return rows


def write_sweep(folder):
    """Three settings of two seeds, one that diverged and one that is still going on, with a name that means harm."""
    for seed in (1, 2):
        for name, config, every in (("float32", {}, 9), ("nearest", FLOAT16, 2), ("stochastic", STOCHASTIC, 8 + seed)):
            texts = {"dev": spoken(every), "test": spoken(every)}
            write_run_folder(folder / f"{name}-{seed}", config={"seed": seed, **config}, texts=texts, steps=16)
    fixed = {"arithmetic.storage.format": "fixed_q2.14"}
    write_run_folder(folder / "fixed", config=fixed, state="stopped", status=DIVERGED, steps=6, dev_cer=[0.9, 0.8])
    bad = {"arithmetic.storage.format": HOSTILE}
    write_run_folder(folder / f"x{HOSTILE.replace('/', '')}", config=bad, state="running", steps=3, dev_cer=[0.95])
    return folder


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Pictures take a second each; what they show is looked at in tests of their own."""
    picture = Picture(b"<svg>wide</svg>", b"<svg>narrow</svg>", b"\x89PNG", (960, 400))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dsrun.study.report.draw", lambda exhibit: picture)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory, _quick):
    """The sweep's runs, its report, and the files written."""
    folder = write_sweep(tmp_path_factory.mktemp("sweep") / "runs")
    report = make_report(open_runs([folder]), baseline="float32")
    page = folder / "report.html"
    return report, page, write_report(report, page)


class Page(HTMLParser):
    """Collects tags, what they refer to, and visible text; fails on tags that do not nest."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.references, self.ids, self.text = [], set(), [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action", "data"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def test_the_page_has_no_script_and_asks_nothing_from_anywhere(made):
    page = Page(made[1].read_text())
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert page.references
    for reference in page.references:
        assert reference.startswith(("data:image/svg+xml;base64,", "#")), reference[:80]
    assert all(reference[1:] in page.ids for reference in page.references if reference.startswith("#"))
    assert "url(" not in made[1].read_text()
    assert "@import" not in made[1].read_text()


def test_foreign_text_is_shown_and_never_becomes_markup(made):
    text = made[1].read_text()
    assert "<script" not in text
    assert "\u202e" not in text
    assert "alert(1)" in Page(text).text
    assert "U+202E" in Page(text).text


@pytest.mark.slow
@pytest.mark.ci
def test_the_same_folders_elsewhere_give_the_same_bytes(made, tmp_path, monkeypatch):
    monkeypatch.setattr("dsrun.study.report.draw", draw)
    report, page, _ = made
    files = write_report(report, page)
    elsewhere = tmp_path / "another" / "place" / "copy"
    shutil.copytree(page.parent, elsewhere, ignore=shutil.ignore_patterns("report*"))
    again = write_report(make_report(open_runs([elsewhere]), baseline="float32"), elsewhere / "report.html")
    assert [file.name for file in again] == [file.name for file in files]
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        assert one.suffix != ".svg" or b"<script" not in one.read_bytes()
    assert str(page.parent) not in page.read_text()
    assert str(page.parent.parent) not in json.dumps(report.to_json())


def test_each_exhibit_is_also_svg_png_and_csv(made):
    report, page, files = made
    folder = figures_folder(page)
    for exhibit in report.exhibits:
        names = {file.suffix for file in files if file.stem == exhibit.name}
        assert names == ({".svg", ".png", ".csv"} if exhibit.draw else {".csv"})
        lines = (folder / f"{exhibit.name}.csv").read_text().splitlines()
        assert len(lines) >= len(exhibit.rows) + 1
    assert (folder / "verdict.png").read_bytes().startswith(b"\x89PNG")
    assert sorted((folder / "contents.txt").read_text().split()) == sorted(file.name for file in files[1:])


@pytest.mark.parametrize("name", ["verdict", "learning_curves", "error_rates"])
def test_texts_in_figures_can_be_read_at_both_widths(made, name):
    check_figure(next(exhibit for exhibit in made[0].exhibits if exhibit.name == name))


def test_captions_begin_with_the_answer_and_say_where_no_difference_was_seen(made):
    verdict, *_, rates = (e for e in made[0].exhibits if e.name in ("verdict", "error_rates"))
    first = verdict.caption.split(". ")[0]
    assert first.startswith(
        "Against float32, by CER on test: float16, no master is worse; no difference was seen for float16"
    )
    assert "fixed_q2.14 diverged" in first
    assert "of 2 settings no difference was seen" in rates.caption.split(". ")[0]


def test_what_did_not_come_to_its_end_is_in_the_page(made):
    report, page, _ = made
    text = Page(page.read_text()).text
    assert "fixed diverged at step 6 (11 steps in a row without a finite gradient)" in text
    assert "was killed or is still going on at step 3" in text
    assert [row["verdict"] for row in report.exhibits[0].rows] == [
        "baseline", "diverged", "worse", "no difference seen", "unfinished",
    ]  # fmt: skip


def test_every_number_of_the_verdict_is_in_the_page(made):
    text = Page(made[1].read_text()).text.replace("\N{MINUS SIGN}", "-")
    for row in made[0].exhibits[0].rows:
        for key in ("test CER", "test CER low", "test CER high", "dev CER", "test difference"):
            if row[key] is not None:
                assert f"{row[key]:.4f}" in text


@pytest.mark.parametrize(
    ("state", "steps", "cer", "status"),
    [
        ("done", 8, [0.9, 0.5], {}),
        ("running", 3, [0.9], {}),
        ("stopped", 3, [], DIVERGED),
        ("new", 0, [], {}),
    ],
)
def test_one_run_in_any_state_has_a_report(tmp_path, state, steps, cer, status):
    run = write_run_folder(tmp_path / "run", state=state, steps=steps, dev_cer=cer, status=status)
    result = CliRunner().invoke(app, ["report", str(run)])
    assert result.exit_code == 0, result.output
    page = run / "report" / "report.html"
    assert str(page) in result.stdout
    text = Page(page.read_text()).text
    assert "One run." in text
    assert ("at step 3" in text) == (steps == 3)


def test_a_folder_with_a_config_alone_has_a_report(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    assert CliRunner().invoke(app, ["report", str(tmp_path / "run")]).exit_code == 0
    assert "has not begun" in (tmp_path / "run" / "report" / "report.html").read_text()


def test_json_has_the_exhibits_and_where_the_page_is(tmp_path):
    run = write_run_folder(tmp_path / "run", texts={"test": spoken(5)})
    result = CliRunner().invoke(app, ["report", str(run), "-o", str(tmp_path / "a.html"), "--title", "T", "--json"])
    found = json.loads(result.stdout)
    assert found["title"] == "T"
    assert found["page"] == str(tmp_path / "a.html")
    assert found["exhibits"][0]["name"] == "verdict"
    assert found["runs"] == [{"run": "run", "setting": "float32", "seed": 1}]


def test_a_second_report_replaces_the_first_and_what_it_no_longer_has(tmp_path):
    run = write_run_folder(tmp_path / "run", texts={"test": spoken(5)})
    page = tmp_path / "page.html"
    assert CliRunner().invoke(app, ["report", str(run), "-o", str(page)]).exit_code == 0
    assert (tmp_path / "page_figures" / "learning_curves.svg").exists()
    (tmp_path / "page_figures" / "mine.txt").write_text("kept")
    (run / "events.jsonl").unlink()
    assert CliRunner().invoke(app, ["report", str(run), "-o", str(page)]).exit_code == 0
    assert not list((tmp_path / "page_figures").glob("learning_curves.*"))
    assert (tmp_path / "page_figures" / "mine.txt").read_text() == "kept"


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["report", *arguments])
    assert isinstance(result.exception, UsageError), result.output
    return str(result.exception)


def test_wrong_input_is_refused_with_a_way_out(tmp_path):
    run = write_run_folder(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    assert "no such folder" in refusal(str(tmp_path / "missing"))
    assert "neither a run folder" in refusal(str(tmp_path / "empty"))
    assert "ends in .html" in refusal(str(run), "-o", str(tmp_path / "page.pdf"))
    assert f"does not exist. `mkdir -p {tmp_path / 'no'}` makes it" in refusal(
        str(run), "-o", str(tmp_path / "no" / "page.html")
    )
    assert "The groups are 'float32'; a run is named as its folder" in refusal(str(run), "--baseline", "float64")
    assert "no run has results on it" in refusal(str(run), "--split", "test")
    assert "no JSON report" in refusal(str(run), "--bench", str(run / "config.yaml") + "x")
    other = write_run_folder(tmp_path / "elsewhere" / "run")
    assert "different folders" in refusal(str(run), str(other))


def test_where_nothing_can_be_written_is_refused_with_the_option_and_before_runs_are_read(tmp_path, monkeypatch):
    run = write_run_folder(tmp_path / "ro" / "run")
    monkeypatch.setattr(durable.os, "access", lambda path, mode: Path(path).name != "ro")
    said = f"{tmp_path / 'ro'}: dsrun cannot write there. Say where the page goes, e.g. -o report.html."
    assert refusal(str(tmp_path / "no run"), "-o", str(tmp_path / "ro" / "page.html")) == said
    (run / "report").touch()
    assert (
        refusal(str(run))
        == f"{run / 'report'}: cannot be made (File exists). Say where the page goes, e.g. -o report.html."
    )


def test_nobodys_file_is_replaced(tmp_path):
    run = write_run_folder(tmp_path / "run")
    page = tmp_path / "mine.html"
    page.write_text("<!DOCTYPE html>\n<title>mine</title>")
    assert "no report of dsrun's" in refusal(str(run), "-o", str(page))
    assert "mine" in page.read_text()
    (tmp_path / "other_figures").mkdir()
    (tmp_path / "other_figures" / "verdict.svg").write_text("mine")
    assert "not written by dsrun report" in refusal(str(run), "-o", str(tmp_path / "other.html"))
    (tmp_path / "linked.html").symlink_to(page)
    assert "symbolic link" in refusal(str(run), "-o", str(tmp_path / "linked.html"))


def test_a_file_with_an_exhibits_name_that_no_report_wrote_stays(tmp_path):
    run = write_run_folder(tmp_path / "run")
    page = tmp_path / "page.html"
    figures_folder(page).mkdir()
    (figures_folder(page) / "contents.txt").write_text("../../etc/passwd\nlearning_curves.csv\n")
    (figures_folder(page) / "verdict.csv").write_text("mine")
    assert "Move that file away" in refusal(str(run), "-o", str(page))
    assert (figures_folder(page) / "verdict.csv").read_text() == "mine"


def test_a_run_folder_whose_report_leads_elsewhere_is_refused(tmp_path):
    run = write_run_folder(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (run / "report").symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in refusal(str(run))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_baseline_is_the_first_setting_or_the_one_that_is_named(tmp_path):
    runs = open_runs([write_sweep(tmp_path / "runs")])
    assert with_baseline_first(runs, None) == runs
    relative = os.path.relpath(tmp_path / "runs" / "nearest-2")
    for name in ("float16, no master", "nearest-2", str(tmp_path / "runs" / "nearest-2"), relative, "nearest"):
        ordered = with_baseline_first(runs, name)
        assert [run.name for run in ordered[:2]] == ["nearest-1", "nearest-2"]
        assert [run.name for run in ordered[2:]] == [run.name for run in runs if not run.name.startswith("nearest")]


def test_a_name_is_the_same_baseline_in_a_report_as_in_a_comparison(tmp_path):
    write_run_folder(tmp_path / "x", config={"arithmetic.storage.format": "float16"})
    write_run_folder(
        tmp_path / "float16", config={"arithmetic.storage.format": "float16", "arithmetic.master.format": "none"}
    )
    runs = open_runs([tmp_path / "x", tmp_path / "float16"])
    assert [group.label for group in group_runs(runs)] == ["float16", "float16, no master"]
    for name in ("float16", "float16, no master", str(tmp_path / "float16")):
        group, _ = baseline_of(group_runs(runs), name)
        assert with_baseline_first(runs, name)[0] is group.runs[0]


def test_notes_tell_of_other_data_commits_devices_and_loose_determinism(tmp_path):
    write_run_folder(tmp_path / "a")
    changes = {
        "git.commit": "fedcba9876543210",
        "git.changes_sha256": "1" * 64,
        "data.test": "d" * 64,
        "platform.cpu": "Another",
    }
    event = ("environment", 3, {"changed": {"jax": ["0.10.1", "0.10.2"]}})
    write_run_folder(tmp_path / "b", config={"determinism": "fast"}, facts=changes, events=[event])
    text = " ".join(notes(open_runs([tmp_path])))
    for part in (
        "different test manifests",
        "2 commits of dsrun: 0123456, fedcba9+",
        "not those of the commit in b",
        "their times are not of one machine",
        "b (fast)",
        "b went on at step 3 under other circumstances than it began with: jax",
    ):
        assert part in text
    assert notes(open_runs([tmp_path / "a"])) == [
        note for note in notes(open_runs([tmp_path / "a"])) if "no intervals" in note
    ]


def test_a_command_is_shown_without_the_folders_of_a_machine(tmp_path):
    run = write_run_folder(tmp_path / "run")
    (run / "command.txt").write_text("/home/me/.venv/bin/dsrun train --config 'a b.yaml'\n/x/dsrun/__main__.py train\n")
    (record,) = open_runs([run])
    assert commands(record) == "dsrun train --config 'a b.yaml'   (started again 1 time)"
    (run / "command.txt").write_text(
        "/x/bin/dsrun train --config /home/me/work/configs/a.yaml --run-dir /scratch/me/b\n"
    )
    assert commands(record) == "dsrun train --config configs/a.yaml --run-dir b"


def test_runs_of_one_name_are_numbered(tmp_path):
    runs = open_runs([write_run_folder(tmp_path / place / "run") for place in "ab"])
    assert run_names(runs) == ["run (1)", "run (2)"]


def test_an_exhibit_may_be_markup_alone(tmp_path):
    (record,) = open_runs([write_run_folder(tmp_path / "run")])
    exhibit = Exhibit("words", "Words", "Answer. More.", "alt", [{"a": 1.5}], html="<p class='own'>mine</p>")
    page = render_page("t", "s", [Item(exhibit, None)], [record], [])
    assert "<p class='own'>mine</p>" in page
    assert re.search(r"<b><bdi>Answer\.</bdi></b> <bdi>More\.</bdi>", page)
    assert Item(exhibit, None).files == ["words.csv"]


def test_check_output_accepts_a_new_name_and_its_own_page(made, tmp_path):
    check_output(tmp_path / "new.html")
    check_output(made[1])


def test_the_last_bits_of_a_place_change_no_byte_of_a_figure():
    # Matplotlib names a clip path after its rectangle, and a matrix product may end on other last bits in another process.
    def drawn(left, *others):
        def figure(width):
            from matplotlib.figure import Figure

            found = Figure(figsize=(width, 2))
            for place in (left, *others):
                axes = found.add_axes((place, 0.2, 0.3, 0.6))
                axes.plot([0, 3], [0, 1])
                axes.set_xlim(1, 2)
            return found

        return draw(Exhibit("one", "One", "One.", "One.", [], draw=figure)).wide

    moved = np.nextafter(0.1, 1)
    assert moved != 0.1
    assert drawn(0.1, 0.6) == drawn(moved, 0.6)
    assert drawn(0.1, 0.1) == drawn(0.1, moved)  # two names for one rectangle
    text = drawn(0.1, 0.6).decode()
    assert {*re.findall(r"url\(#(\w+)\)", text)} == {*re.findall(r'<clipPath id="(\w+)"', text)} == {"p1", "p2"}
