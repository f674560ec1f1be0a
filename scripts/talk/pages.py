"""The table of claims as JSON, Markdown and a page with the figures, from FOLDER alone: the same folder gives the same bytes.

talk.json and talk.md need no figure and are written first; so a figure that cannot be drawn does not take the table with it. Every
verdict is given by its claim's rule, and each claim by itself: one that cannot be judged says why and the others stand, and so does a run
folder that cannot be read. What the rules' authors knew is said beside the rules."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dsrun.errors import DsrunError
from scripts.talk import on_bits, on_formats, on_magnitudes, on_probabilities, on_speech, on_speed, on_sums
from scripts.talk.claims import DAMAGE, Claim, Judged, MissingError, NotHereError
from scripts.talk.evidence import Evidence
from scripts.talk.foreign import code_in_markdown, in_markdown, printable
from scripts.talk.running import say, write_json, write_whole
from scripts.talk.sizes import command, tested

TITLE = "Computer Arithmetic in Deep Learning: the talk's claims, tested"
TALK = 'the talk "Computer Arithmetic in Deep Learning" (B. Catanzaro)'
# In the order of the talk.
CLAIMS: list[Claim] = [
    *on_speech.CLAIMS[:2],
    *on_probabilities.CLAIMS,
    *(claim for claim in on_formats.CLAIMS if claim.name == "ctc_float16"),
    *on_speed.CLAIMS,
    *(claim for claim in on_formats.CLAIMS if claim.name in ("float8", "one_bit")),
    *on_sums.CLAIMS,
    *on_magnitudes.CLAIMS[:4],
    *(claim for claim in on_formats.CLAIMS if claim.name not in ("ctc_float16", "float8", "one_bit")),
    *on_magnitudes.CLAIMS[4:],
    *on_speech.CLAIMS[2:],
    *on_bits.CLAIMS,
]
# How the page marks verdicts; the words say the same.
MARKS = {
    "agrees": "better",
    "differs": "worse",
    "cannot tell": "untold",
    "not testable here": "same",
    "not run": "unfinished",
}

# What was known when the rules were written; nothing was registered anywhere.
KNOWN = (
    "No rule was registered before its numbers; what the rules' authors knew is this. ",
    "Error rates: all configs of the sweep but bfloat16_storage had been trained before with the same seeds 1, 2 and 3, and their "
    "rates stand in the configs' heads and in docs/MEASUREMENTS.md. The margin of 0.02 (half of what bfloat16 without a second copy "
    "lost there) and the 0.8 that tells learning from not learning (16-bit fixed point to nearest had 0.87) were set with them in "
    "view. So these verdicts repeat known results on the same data and seeds; they are no blind test. ",
    "Other claims: sums and the cartoon are arithmetic whose outcome is known. The rule of power laws was set on drawn numbers alone, "
    "after an earlier one had turned out to be met by normal numbers too. The bound of log space's error was set when errors of "
    "0.0001 were known. Speed: the talk's own figures.",
)
NAMES = (
    "Names: float8 is mxfp8_e4m3 (values of 8 bits in blocks of 32 with a shared scale) with gradients in float8_e5m2, fixed16 is "
    "fixed_q6.10; _storage has a float32 copy of the weights that accumulates the updates, _nearest and _stochastic have none and are "
    "updated so."
)
UNKNOWN_AT_FULL_SIZE = (
    "The margins are those of the small network, where they were set with its error rates in view (scripts/talk/claims.py); nothing "
    "was known of this network when they were written."
)
IN_SINGULAR = {
    "agrees": "agrees",
    "differs": "differs",
    "cannot tell": "cannot be told",
    "not testable here": "is not testable here",
    "not run": "was not run",
}
IN_PLURAL = {
    "agrees": "agree",
    "differs": "differ",
    "cannot tell": "cannot be told",
    "not testable here": "are not testable here",
    "not run": "were not run",
}


@dataclass(frozen=True)
class Row:
    """A claim with its verdict."""

    claim: Claim
    judged: Judged
    is_tiny: bool
    tested: str = ""
    command: str = "none"

    @property
    def verdict(self) -> str:
        """With toy sizes the word is there and not meant."""
        return f"tiny: {self.judged.verdict}" if self.is_tiny else self.judged.verdict

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        claim = self.claim
        facts = {name: getattr(claim, name) for name in ("name", "says", "slide", "rule", "part")}
        facts |= {"tested": self.tested, "command": self.command}
        return {**facts, "verdict": self.verdict, "measured": self.judged.measured, "numbers": self.judged.numbers}


def judge_all(evidence: Evidence) -> list[Row]:
    """Every claim, in the talk's order."""
    words, size = evidence.wording, evidence.size
    return [
        Row(claim, judge(claim, evidence), size == "tiny", tested(claim, words), command(claim, words, size))
        for claim in CLAIMS
    ]


def judge(claim: Claim, evidence: Evidence) -> Judged:
    """A claim's verdict; where there is none, why."""
    try:
        found = claim.judge(evidence)
    except NotHereError as error:
        found = Judged("not testable here", str(error))
    except MissingError as error:
        found = Judged("not run", str(error))
    except DAMAGE as error:
        what = str(error) if isinstance(error, DsrunError) else f"{type(error).__name__}: {error}"
        found = Judged("not run", f"what part {claim.part} left is damaged, or of another version of dsrun: {what}")
    return replace(found, measured=printable(found.measured))


def write_pages(folder: Path) -> list[Path]:
    """talk.json, talk.md, and talk.html with its figures; what was written, the page last.

    Raises:
        DataError: a run folder is damaged so that the page cannot be made; the table is there by then.
    """
    evidence = Evidence(folder)
    rows = judge_all(evidence)
    document = {"title": TITLE, "settings": evidence.settings, "machine": machine(evidence), "summary": in_short(rows)}
    document |= {"known_before": known(evidence), "left_out": [printable(text) for text in evidence.left_out]}
    write_json(folder / "talk.json", document | {"claims": [row.to_json() for row in rows]})
    write_whole(folder / "talk.md", markdown(rows, machine(evidence), known(evidence), evidence.left_out))
    page = write_page(evidence, rows)
    return [folder / "talk.json", folder / "talk.md", *([page] if page else [])]


def in_short(rows: Sequence[Row]) -> str:
    """Numbers of verdicts in a sentence."""
    counts: Counter[str] = Counter(row.judged.verdict for row in rows)
    listed = ", ".join(
        f"{counts[verdict]} {IN_PLURAL[verdict] if counts[verdict] != 1 else IN_SINGULAR[verdict]}"
        for verdict in MARKS
        if counts[verdict]
    )
    tiny = " Toy sizes: a trial of the script, no verdict is meant." if rows and rows[0].is_tiny else ""
    return f"Of {len(rows)} claims: {listed}.{tiny}"


def machine(evidence: Evidence) -> dict[str, Any]:
    """Device and commit of the runs; of the benches where there are no runs."""
    found: dict[str, Any] = {}
    if runs := evidence.runs:
        found["device"] = ", ".join(dict.fromkeys(str(run.device) for run in runs))
        found["trainings"] = len(runs)
    if commits := evidence.commits:
        found["commit"] = ", ".join(f"{commit} ({', '.join(parts)})" for commit, parts in commits.items())
    with suppress(MissingError, *DAMAGE):
        bench = evidence.report("speed", "step")["machine"]
        found |= {name: bench[name] for name in ("platform", "jax", "devices")}
    return {name: printable(str(value)) for name, value in found.items()}


def known(evidence: Evidence) -> str:
    """What was known when the rules were written."""
    return UNKNOWN_AT_FULL_SIZE if evidence.size == "full" else "".join(KNOWN)


def markdown(rows: Sequence[Row], facts: dict[str, Any], known: str = "", left_out: Sequence[str] = ()) -> str:
    """The table, and below it how each claim was tested and its rule."""
    lines = [
        f"# {TITLE}",
        "",
        f"Made by `scripts/reproduce_talk.sh` from real runs; the claims are those of {TALK}. {in_short(rows)}",
    ]
    lines += [
        "",
        in_markdown("; ".join(f"{name}: {value}" for name, value in facts.items())) or "nothing was run yet",
        "",
        in_markdown(NAMES),
        "",
    ]
    lines += [f"- no number here is of this run folder: {in_markdown(text)}" for text in left_out]
    lines += [""] if left_out else []
    lines += _table(("slide", "claim", "measured", "verdict", "command"), [_cells(row) for row in rows])
    lines += [
        "",
        "## How each was tested, and when it would have agreed",
        "",
        in_markdown(known),
        "",
    ]
    how = [tuple(map(in_markdown, (sentence(row.claim.says), row.tested, row.claim.rule))) for row in rows]
    return "\n".join([*lines, *_table(("claim", "tested", "rule"), how)]) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    again = code_in_markdown(row.command) if row.command != "none" else ""
    claim, measured = in_markdown(sentence(row.claim.says)), in_markdown(row.judged.measured)
    return row.claim.slide, claim, measured, f"**{row.verdict}**", again


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)]


def write_page(evidence: Evidence, rows: Sequence[Row]) -> Path | None:
    """talk.html by the machinery of `dsrun report`, the claims first; None while there is no run, of which a report is."""
    from dsrun.study import report
    from dsrun.study.exhibit import Exhibit

    page = evidence.folder / "talk.html"
    report.check_output(page)
    runs, equal = evidence.runs, equal_runs(evidence)
    if not runs and not equal:
        say("talk.html is made once there is a run: parts bits and sweep bring some")
        return None
    found = report.make_report(runs, baseline=runs[0].name, benches=_benches(evidence)) if runs else None
    caption = " ".join(
        [in_short(rows), NAMES, known(evidence), *(f"Left out: {printable(text)}." for text in evidence.left_out)]
    )
    claims = Exhibit("claims", "The talk's claims", caption, in_short(rows), _flat(rows), html=claims_table(rows))
    exhibits = [*study_exhibits(evidence), *(found.exhibits if found else []), *bits_exhibits(equal)]
    exhibits = [claims, *{exhibit.name: exhibit for exhibit in exhibits}.values()]  # of two with one name the later

    class TalkReport(report.Report):
        """A report whose first words are about the claims."""

        @property
        def summary(self) -> str:
            return f"{in_short(rows)} From real runs on this machine, by scripts/reproduce_talk.sh."

    notes, groups = (found.notes, found.groups) if found else ([], [])
    report.write_report(TalkReport(TITLE, runs or equal, groups, notes, exhibits), page)
    return page


def _benches(evidence: Evidence) -> list[dict[str, Any]]:
    benches = []
    for step in ("step", "scaling", "deep_speech_2"):
        try:
            benches.append(evidence.report("speed", step))
        except (MissingError, *DAMAGE):
            continue
    return benches


def study_exhibits(evidence: Evidence) -> list[Any]:
    """The cartoon and the sums, drawn from what they printed."""
    from dsrun.study import accumulate_exhibit, cartoon_exhibit

    found = []
    for step, function in (
        ("cartoon", cartoon_exhibit.cartoon_exhibit),
        ("accumulate", accumulate_exhibit.accumulate_exhibit),
    ):
        path = evidence.folder / "sums" / f"{step}.json"
        if not path.is_file():
            continue
        try:
            found.append(function(path))
        except DAMAGE as error:  # of an older dsrun: the verdicts need less of it than the figure does
            say(f"{step}: no figure: {error}")
    return found


def equal_runs(evidence: Evidence) -> list[Any]:
    """Those of part bits that there are, complete or not."""
    from dsrun.inspection import open_run

    folders = [evidence.folder / "bits" / name for name in ("first", "again", "killed", "devices", "control")]
    found = []
    for folder in folders:
        if (folder / "config.yaml").is_file():
            try:
                found.append(open_run(folder))
            except DAMAGE as error:
                say(f"bits/{folder.name}: left out of the figure: {error}")
    return found


def bits_exhibits(runs: Sequence[Any]) -> list[Any]:
    """The same bits: the equal runs, and the control that differs."""
    from dsrun.study.determinism_strip import determinism_strip

    return [determinism_strip(runs)] if len(runs) > 1 else []


def _flat(rows: Sequence[Row]) -> list[dict[str, Any]]:
    names = ("slide", "claim", "verdict", "measured", "tested", "rule", "command")
    return [
        dict(
            zip(
                names, (c.slide, c.says, row.verdict, row.judged.measured, row.tested, c.rule, row.command), strict=True
            )
        )
        for row in rows
        for c in [row.claim]
    ]


def claims_table(rows: Sequence[Row]) -> Markup:
    """The table of the page; everything foreign escaped."""
    body = Markup("").join(_line(row) for row in rows)
    head = Markup(
        '<th scope="col">Claim</th><th scope="col">Slide</th><th scope="col">Verdict</th><th scope="col">Measured</th>'
    )
    widths = Markup('<colgroup><col style="width:28%"><col style="width:7%"><col style="width:15%"><col></colgroup>')
    return Markup(
        '<table class="cards" style="width:100%">{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table>'
    ).format(widths, head, body)


def _line(row: Row) -> Markup:
    claim = row.claim
    details = Markup(
        "<details><summary>rule and command</summary><p>{}</p><p>Tested: {}</p><p><code>{}</code></p></details>"
    ).format(claim.rule, row.tested, printable(row.command))
    cells = Markup(
        '<td data-label="Slide">{}</td><td data-label="Verdict"><span class="verdict {}">{}</span></td>'
    ).format(claim.slide, MARKS[row.judged.verdict], row.verdict)
    # A block of its own: on a narrow page the cell lays its children beside one another.
    measured = Markup('<td class="long"><div style="width:100%;text-align:start"><bdi>{}</bdi>{}</div></td>').format(
        row.judged.measured, details
    )
    return Markup('<tr><th scope="row">{}</th>{}{}</tr>').format(sentence(claim.says), cells, measured)


def sentence(text: str) -> str:
    """With a capital, but for names of formats and other words that keep theirs."""
    first = text.split()[0]
    return text if any(not letter.isalpha() for letter in first) else text[0].upper() + text[1:]
