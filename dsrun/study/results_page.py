"""docs/RESULTS.md: what runs came to, in Markdown, computed from their records to the last word.

A section is a folder of runs. It begins with the answer: on the test set (on dev where there is none) which groups differ from the
first, with intervals; where an interval contains zero it says that no difference was seen. The group that the others are held against
is the first that is plain float32, or the first of all if none is. Then the table, what differs between the groups, circumstances,
commands, and what a reader must know of single runs: incomplete, diverged, of another commit or device than the others, not strict.
Only runs that are done are in answer and table.

The same records give the same bytes: no date, no path of this machine. What an interval is, `statistics.py` says.
"""

from collections.abc import Callable, Sequence
from typing import Any

from dsrun.study.foreign_text import code_in_markdown, in_markdown, longest_backticks, one_line
from dsrun.study.groups import Group, differing_keys, group_runs, short_names, shown, usual_baseline
from dsrun.study.number_words import WHY_SKIPPED, counted, percent
from dsrun.study.results_record import RecordedRun, Section
from dsrun.study.run_record import Split
from dsrun.study.statistics import Difference, Rate, difference, rate_interval, why_not_paired

MOST_KEYS = 12  # that are listed as differing
LONGEST_LABEL = 48  # beyond it a group is called by its run's folder, and the table of what differs tells the rest
Row = dict[str, str]

INTRODUCTION = """# Results

Written by `{command}`; no number here is typed, and what is changed by hand is lost. The page is made of the records in {records}, which
`dsrun results RUN|FOLDER... -o PAGE` makes of run folders: each utterance's errors, evaluations, provenance and commands. From the records
alone the same command gives the same bytes, which a test holds it to.

Rates are of the whole set: all errors over all reference characters (CER) or words (WER), of all seeds together. Brackets are 95%
intervals over utterances. A difference is paired by utterance, and by seed where groups have seeds in common; its interval is of both
draws together, and with one seed of the utterances alone, so that it speaks of these networks and not of their settings. Where it
contains zero, no difference was seen, which is not that there is none. What a config claims is quoted from its file, and nothing here
judges it: where the table says otherwise, the claim does not hold there. Minutes are those of the training steps, compilation included,
evaluations not; on a shared machine they mean little. What was measured otherwise (speed, GPUs, data, fuzzing) is in
[MEASUREMENTS.md](MEASUREMENTS.md).
"""


def render_page(sections: Sequence[Section], *, command: str, records: str) -> str:
    """The page.

    Args:
        command: that writes it. records: where the records are.
    """
    parts = [INTRODUCTION.format(command=command, records=records)]
    parts += [render_section(section) for section in sections]
    return "\n".join(parts)


def render_section(section: Section) -> str:
    """One folder's runs."""
    groups = named(with_baseline_first(group_runs([run for run in section.runs if run.state == "done"])))
    parts = [f"## {in_markdown(section.name)}", _claims(section)]
    if groups:
        split: Split = "test" if any(rate_interval(group, "test", "characters") for group in groups) else "dev"
        parts += [answer(groups, split), table(_rows(groups, split)), _differing(groups)]
    else:
        parts.append("No run is done yet.")
    parts += [_circumstances(section.runs), _commands(groups), _notes(section.runs)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _claims(section: Section) -> str:
    lines = []
    for found in section.claims:
        claim = f" The file's own claim, not judged here: {found['claim']}" if "claim" in found else ""
        lines.append(f"- {code_in_markdown(found['file'])}: {in_markdown(found.get('about', '') + claim)}")
    return "\n".join(lines)


def with_baseline_first(groups: Sequence[Group]) -> list[Group]:
    """The usual baseline before the others; as `dsrun report` does for a folder."""
    if not groups:
        return []
    first, _ = usual_baseline(groups)
    return sorted(groups, key=lambda group: group is not first)


def named(groups: Sequence[Group]) -> list[Group]:
    """Groups by their labels, or by their first runs' folders where labels are too long to be read."""
    if all(len(group.label) <= LONGEST_LABEL for group in groups):
        return list(groups)
    return [Group(group.runs[0].name, group.config, group.runs) for group in groups]


def answer(groups: Sequence[Group], split: Split) -> str:
    """The first sentences: which groups differ from the first, or each one's rate where there is nothing to compare."""
    first, *others = groups
    found: dict[str, list[str]] = {}
    methods = []
    for group in others:
        pair = difference(group, first, split, "characters")
        if pair:
            found.setdefault(pair.words, []).append(f"{in_markdown(group.label)} {_difference_text(pair)}")
            methods.append(pair.method)
    if not found:
        return _rates(groups, split)
    verdicts = "; ".join(f"**{words}**: {', '.join(texts)}" for words, texts in sorted(found.items()))
    count = sum(map(len, found.values()))
    many = f" The {count} differences share one baseline and are not corrected for being {count}." if count > 1 else ""
    return (
        f"{split.capitalize()} CER against {in_markdown(first.label)}: {verdicts}. Intervals: "
        f"{', '.join(dict.fromkeys(methods))}.{many}"
    )


def _rates(groups: Sequence[Group], split: Split) -> str:
    texts, reasons = [], []
    for group in groups:
        rate = rate_interval(group, split, "characters")
        if rate:
            seeds = "one seed" if len(group.runs) == 1 else f"{len(group.runs)} seeds"
            counted = f" over {rate.utterances} utterances" if rate.utterances else ""
            texts.append(f"{in_markdown(group.label)} {_rate_text(rate)}{counted}, {seeds}")
    for group in groups[1:]:
        reasons.append(why_not_paired(group, groups[0], split))
    why = "; ".join(dict.fromkeys(in_markdown(reason) for reason in reasons if reason))
    return f"{split.capitalize()} CER: {'; '.join(texts) or 'none'}." + (f" Not compared: {why}." if why else "")


def _rows(groups: Sequence[Group], split: Split) -> list[Row]:
    first = groups[0]
    rows = []
    for group in groups:
        pair = difference(group, first, split, "characters") if group is not first else None
        row = {"": group.label, "seeds": ", ".join(map(str, group.seeds))}
        for name in ("dev", "test"):
            for unit in ("characters", "words"):
                rate = rate_interval(group, name, unit)  # type: ignore[arg-type]
                title = f"{name} {'CER' if unit == 'characters' else 'WER'}"
                row[title] = _rate_text(rate) if rate else "-"
        row[f"{split} CER by seed"] = _by_seed(rate_interval(group, split, "characters"))
        row[f"{split} CER minus the first's"] = _difference_text(pair) + f", p {pair.p:.2g}" if pair else "-"
        row["steps"] = _spread(group, "steps", lambda value: f"{value:g}")
        row["minutes"] = _spread(group, "training_seconds", lambda value: f"{value / 60:.1f}")
        row["updates below half an ulp"] = _spread(group, "swallowed_share", percent)
        rows.append(row)
    if all(len(group.runs) == 1 for group in groups):
        rows = [{key: value for key, value in row.items() if not key.endswith("by seed")} for row in rows]
    if len(groups) == 1:
        rows = [{key: value for key, value in row.items() if not key.endswith("the first's")} for row in rows]
    return rows


def _spread(group: Group, name: str, text: Callable[[float], str]) -> str:
    """A figure of a group's runs: one value, or the lowest and the highest."""
    values = [run.measured[name] for run in _recorded(group.runs) if run.measured.get(name) is not None]
    if not values:
        return "-"
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


def _by_seed(rate: Rate | None) -> str:
    return ", ".join(f"{value:.4f}" for value in rate.by_seed) if rate else "-"


def _differing(groups: Sequence[Group]) -> str:
    keys = differing_keys(groups)
    if not keys:
        return ""
    names = short_names(keys)
    rows = [{"": group.label} | {names[key]: shown(group, key) for key in keys[:MOST_KEYS]} for group in groups]
    more = f"\n\nMore settings that differ, in the record: {len(keys) - MOST_KEYS}." if len(keys) > MOST_KEYS else ""
    return f"What differs, besides the seed:\n\n{table(rows)}{more}"


def _circumstances(runs: Sequence[RecordedRun]) -> str:
    """Code, device, versions, data: one line each, all values where they differ."""
    facts = {
        "device": lambda run: run.device,
        "commit": lambda run: run.commit,
        "Python, JAX, jaxlib": _versions,
        "determinism": lambda run: run.config.get("determinism"),
        "train, dev, test": _data,
    }
    lines = []
    for name, fact in facts.items():
        values = dict.fromkeys(str(fact(run)) for run in runs if fact(run))
        if values:
            lines.append(f"- {name}: {'; '.join(map(in_markdown, values))}")
    return "\n".join(lines)


def _versions(run: RecordedRun) -> str:
    packages = run.facts.get("packages") or {}
    known = [run.facts.get("python"), packages.get("jax"), packages.get("jaxlib")]
    return ", ".join(map(str, known)) if any(known) else ""


def _data(run: RecordedRun) -> str:
    words = []
    for split in ("train", "dev", "test"):
        path, digest = run.config.get(f"data.{split}"), run.data_digest(split)
        if path:
            words.append(f"{path}" + (f" (sha256 {digest[:8]})" if digest else ""))
    return ", ".join(words)


def _commands(groups: Sequence[Group]) -> str:
    """Each group's first command; a sweep's once."""
    commands: dict[str, None] = {}
    for group in groups:
        for run in _recorded(group.runs):
            sweep = run.command.partition(" --index ")[0] if run.command.startswith("dsrun sweep ") else ""
            commands[one_line(sweep or run.command)] = None
            if not sweep:
                break  # the other seeds' differ in the seed
    text = "\n".join(command for command in commands if command)
    seeds = any(
        len(group.runs) > 1 and not _recorded(group.runs)[0].command.startswith("dsrun sweep") for group in groups
    )
    fence = "`" * max(3, longest_backticks(text) + 1)
    return (
        f"{'Of each group the first seed:' + chr(10) + chr(10) if seeds else ''}{fence}sh\n{text}\n{fence}"
        if text
        else ""
    )


def _notes(runs: Sequence[RecordedRun]) -> str:
    notes = [note for run in runs for note in _run_notes(run)]
    commits, devices = ({fact for run in runs if (fact := getattr(run, name))} for name in ("commit", "device"))
    if any(commit.endswith("+") for commit in commits):
        notes.append(
            "A commit with + had changed files of dsrun; they are known by a digest alone (the record has it)."
        )
    if len(commits) > 1:
        notes.append("The runs are of several commits: last bits may differ for that alone (CHANGELOG, Numerics).")
    if len(devices) > 1:
        notes.append("The runs are of several kinds of devices: last bits may differ for that alone.")
    return "\n".join(f"- {in_markdown(note)}" for note in notes)


def _run_notes(run: RecordedRun) -> list[str]:
    notes = []
    step = run.status.get("step", 0)
    if run.state == "diverged":
        notes.append(f"{run.name} diverged at step {run.measured.get('steps', step)}: its numbers were not finite.")
    elif run.state != "done":
        best = f"; its best dev CER by then {run.best['cer']:.4f}" if run.best else ""
        reason = f" ({run.status['reason']})" if run.status.get("reason") else ""
        notes.append(f"{run.name} is incomplete: {run.state} at step {step}{reason}{best}.")
    if run.measured.get("skipped"):
        notes.append(f"{run.name}: {counted(run.measured['skipped'], 'step')} skipped, {WHY_SKIPPED}.")
    if changed := run.measured.get("environment_changed_at"):
        notes.append(f"{run.name} went on under other circumstances at step {', '.join(map(str, changed))}.")
    if run.config.get("determinism", "strict") != "strict":
        notes.append(
            f"{run.name}: determinism {run.config['determinism']}, so its bits are not promised to come again."
        )
    return notes


def _recorded(runs: Sequence[Any]) -> list[RecordedRun]:
    return list(runs)


def _rate_text(rate: Rate) -> str:
    return f"{rate.value:.4f}" + (f" [{rate.low:.4f}, {rate.high:.4f}]" if rate.low is not None else "")


def _difference_text(pair: Difference) -> str:
    return f"{pair.value:+.4f} [{pair.low:+.4f}, {pair.high:+.4f}]"


def table(rows: Sequence[Row]) -> str:
    """Rows with equal keys as a Markdown table."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(in_markdown(cell) for cell in line) + " |" for line in lines)
