"""Rows as a table, JSON, CSV and Markdown."""

import csv
import io
import json

import pytest

from dsrun.cli_rows import csv_text, fitting, form_of, markdown_text, print_rows, without_empty
from dsrun.errors import UsageError

ROWS = [
    {"run": 'a|b, "c"\n*d*', "cer": 0.123456789, "seeds": [1, 2], "p": None},
    {"run": "<b>[x](y)", "cer": float("inf"), "seeds": [], "p": 0.5},
]


def test_csv_read_again_has_every_digit_and_nothing_for_what_is_not_known():
    names, first, second = csv.reader(io.StringIO(csv_text(ROWS)))
    assert names == ["run", "cer", "seeds", "p"]
    assert first == ['a|b, "c"\n*d*', "0.123456789", "[1, 2]", ""]
    assert second == ["<b>[x](y)", "", "[]", "0.5"]


def test_markdown_cells_end_where_they_should_and_numbers_stand_right():
    shown = [{"run": row["run"], "cer": cer} for row, cer in zip(ROWS, ("0.123 [0.1, 0.2]", None), strict=True)]
    assert markdown_text(shown).splitlines() == [
        "| run | cer |",
        "| --- | ---: |",
        r'| a\|b, "c" \*d\* | 0.123 [0.1, 0.2] |',
        r"| \<b\>[x]\(y) |  |",
    ]


def test_no_rows_are_no_lines():
    assert (csv_text([]), markdown_text([]), fitting([], 80)) == ("", "", ([], []))


def test_json_has_null_for_infinity(capsys):
    print_rows("json", ROWS, [])
    assert json.loads(capsys.readouterr().out)[1]["cer"] is None


def test_a_narrow_terminal_gets_the_first_columns_and_the_names_of_the_others():
    rows = [{"run": "x" * 10, "cer": 0.25, "more": "yes"}]
    assert fitting(rows, 16) == ([{"run": "x" * 10, "cer": 0.25}], ["more"])
    assert fitting(rows, 22) == (rows, [])
    assert fitting(rows, 3) == ([{"run": "x" * 10}], ["cer", "more"])


def test_a_column_in_which_nothing_is_known_is_not_shown():
    rows = [{"run": None, "p": None, "q": "-", "r": "-"}, {"run": None, "p": None, "q": "", "r": 0}]
    assert [list(row) for row in without_empty(rows)] == [["run", "r"]] * 2
    assert without_empty([]) == []


HOSTILE = "x\x1b[2J\x9b2J\u202e\x07y"


@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_no_form_has_characters_that_a_terminal_obeys_and_json_is_the_same_strings(form, capsys):
    rows = [{"run": HOSTILE, HOSTILE: [HOSTILE]}]
    print_rows(form, rows, [{name: str(value) for name, value in row.items()} for row in rows])
    found = capsys.readouterr().out
    assert not [c for c in found if not c.isprintable() and c != "\n"]
    if form == "json":
        assert json.loads(found) == rows


def test_two_forms_at_once_are_refused():
    assert form_of(json_output=False, csv_output=False, markdown=True) == "md"
    with pytest.raises(UsageError, match="--json and --csv: choose one"):
        form_of(json_output=True, csv_output=True, markdown=False)
