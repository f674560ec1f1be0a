"""What the results page needs of run folders, small enough for git: each utterance's errors, evaluations, provenance, commands.

Run folders are not kept in the repository, and a page whose numbers nobody can check is a page of claims. So beside the page lies, for
each folder of runs, one JSON file, from which the page is made again with the same bytes. It is the only thing the page is made of:
run folders are first turned into such a record. A line is a run, so that a change shows as the runs that it is about.

References are kept as digests: whether two runs were scored on the same utterances must be known, what was said need not, and may not
be anybody's to publish. Errors are kept as substitutions, deletions and insertions.

Paths say something of a machine, and often who works there, and nothing of a result. An absolute path (also of Windows, behind `file:` or
`~`) is kept from its last folder named data, configs, runs or scripts on, otherwise as its own name alone; in a command, the program is
`dsrun`. That is the only change to what a run folder says.

A run folder may be a stranger's, and its command says which config's claim is quoted. So a file is opened only below the current folder,
and only if it is the config or sweep that it is said to be: else a folder could have any file here put into a page and published.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from dsrun.errors import DataError
from dsrun.evaluation.error_rate import ErrorCount
from dsrun.evaluation.results import Evaluation, UtteranceResult
from dsrun.record.events import number
from dsrun.record.run_dir import RunDir
from dsrun.record.tensor_hashes import TensorHashes
from dsrun.study.run_record import SPLITS, RunRecord, Split
from dsrun.study.run_state import result_on_test, told_state

SCHEMA_VERSION = 1
_TYPES: dict[str, Any] = {
    "environment_changed_at": list,
    "state_digest": str | None,
}  # other figures are numbers or null
FACTS = ("determinism", "dsrun", "git", "python", "packages", "platform", "products", "data")
JAX_FACTS = ("backend", "device_kinds", "backend_version")
KEPT_FOLDERS = ("data", "configs", "runs", "scripts")
_EVAL_FIGURES = ("event", "step", "epoch", "manifest", "loss", "cer", "wer")
_RESULT_FIGURES = ("step", "cer", "wer", "cer_interval", "wer_interval")
_PART = r"[\w.@+~%-]+"
_ABSOLUTE = re.compile(
    rf"(?<![\w./~])~[\w.-]*/(?:{_PART}/)*[\w.@+~%=-]+"
    # A name may have blanks; of a user's it is known where it ends, elsewhere only in a text that is a path and nothing else.
    rf"|(?:file://[\w.-]*|(?<![\w./~]))/(?:(?:home|Users)/{_PART}(?: {_PART}){{0,3}}/)?(?:{_PART}/)*[\w.@+~%=-]+"
    r"|(?:(?<!\w)[A-Za-z]:[\\/]+|(?<![\\\w])\\\\+)(?:[^\\/:*?\"<>|\r\n,;]+[\\/]+)*[^\\/:*?\"<>|\s,;]+"
)
_BEGINS_AS_PATH = re.compile(r"file://|~[\w.-]*/|/[^/\s]|[A-Za-z]:[\\/]|\\\\")
DSRUN = ("dsrun", "__main__.py", "sweep_child.py")  # how dsrun is started
USERS = ("home", "Users")  # folders of users
LONGEST = 2**31  # characters or errors of an utterance
_HEADING = re.compile(r" ?(Claim|Measured|Run|Needs):\s+(.*)")
_OF_SWEEP = re.compile(r"# .*: run (\d+) of (.+), resolved\.")


@dataclass(frozen=True)
class RecordedRun(RunRecord):
    """A run as a record tells it. What a record does not hold (steps, hashes, magnitudes) is empty here.

    Fields:
        command: as typed, without what is of a machine.
        measured: steps, seconds and shares that the run folder's series add up to.
        scored: results by split, references as digests.
    """

    command: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)
    scored: Mapping[str, Evaluation] = field(default_factory=dict)

    @cached_property
    def state(self) -> str:
        """As the record says; there is no folder to look at, and one of the same name here would be another's."""
        return told_state(self.status)

    def results(self, split: Split) -> Evaluation | None:
        """Each utterance's errors on dev or test; None where it was not scored."""
        return self.scored.get(split)


@dataclass(frozen=True)
class Section:
    """The runs of one folder, or one run: a section of the page.

    Fields:
        claims: of the config or sweep files that the commands name: file, what it is about, and what it claims.
    """

    name: str
    runs: tuple[RecordedRun, ...]
    claims: tuple[Mapping[str, str], ...] = ()


def record_text(
    name: str, runs: Sequence[RunRecord], *, is_experiment: Callable[[Path], bool] = lambda path: False
) -> str:
    """The record of some runs, as the file has it.

    Args:
        is_experiment: whether a file is a config or sweep, whose claim may be quoted; none is if not given.
    """
    utterances = _Utterances()
    rows = [_run_row(run, utterances) for run in runs]
    common = _common([row["config"] for row in rows])
    for row in rows:
        row["config"] = {key: value for key, value in row["config"].items() if key not in common}
    head = {"schema_version": SCHEMA_VERSION, "name": name, "claims": _claims(rows, is_experiment), "config": common}
    lines = [f"{json.dumps(key)}: {_compact(value)}" for key, value in head.items()]
    lines.append(f'"utterances": {_lines(utterances.sets)}')
    lines.append(f'"runs": {_lines(rows)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_record(text: str, place: str) -> Section:
    """A record as runs.

    Args:
        place: of the text, for errors.

    Raises:
        DataError: it is none, or of another version.
    """
    try:
        found = json.loads(text)
        if found["schema_version"] != SCHEMA_VERSION:
            raise DataError(
                f"{place}: a record of version {found['schema_version']}; this dsrun reads {SCHEMA_VERSION}. Make it again from the run "
                "folders."
            )
        for utterances in found["utterances"]:
            _require_utterances(utterances)
        runs = tuple(_read_run(row, found) for row in found["runs"])
        claims = tuple({key: str(text) for key, text in ({"file": ""} | claim).items()} for claim in found["claims"])
        return Section(str(found["name"]), runs, claims)
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise DataError(f"{place}: no record of results as `dsrun results` writes it ({error!r}).") from error


class _Utterances:
    """The sets of utterances that runs were scored on, each once."""

    def __init__(self) -> None:
        self.sets: list[dict[str, Any]] = []

    def place(self, results: Evaluation) -> int:
        found = {
            "ids": [u.id for u in results.utterances],
            "references": [_digest(u.reference) for u in results.utterances],
            "characters": [u.characters.reference_length for u in results.utterances],
            "words": [u.words.reference_length for u in results.utterances],
        }
        if found not in self.sets:
            self.sets.append(found)
        return self.sets.index(found)


def _run_row(run: RunRecord, utterances: _Utterances) -> dict[str, Any]:
    status: dict[str, Any] = {
        key: run.status[key] for key in ("state", "step", "exit_code", "reason") if key in run.status
    }
    if run.state == "killed":  # which the status of a killed run cannot say
        status["state"] = run.state
    if result := result_on_test(run.config.get("data.test"), run.status):
        status["result"] = {key: result[key] for key in _RESULT_FIGURES if key in result}
    scored = {}
    for split in SPLITS:
        results = run.results(split)
        if results is not None:
            scored[split] = {
                "of": utterances.place(results),
                "characters": [_kinds(u.characters) for u in results.utterances],
                "words": [_kinds(u.words) for u in results.utterances],
            }
    return {
        "name": run.name,
        "command": _command(run),
        "status": without_places(status),
        "provenance": without_places(_facts(run.facts)),
        "measured": _measured(run),
        "events": without_places([{key: e[key] for key in _EVAL_FIGURES if key in e} for e in run.evaluations]),
        "results": scored,
        "config": without_places(dict(run.config)),
    }


def _facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: facts[key] for key in FACTS if key in facts}
    jax = facts.get("jax")
    return kept | ({"jax": {key: jax[key] for key in JAX_FACTS if key in jax}} if isinstance(jax, Mapping) else {})


def _measured(run: RunRecord) -> dict[str, Any]:
    """What the steps add up to; seconds to the millisecond, since no more of them means anything."""
    updates = run.watches[-1] if run.watches else {}
    digests = run.series["state digests"]
    seconds = {"training_seconds": run.training_seconds, "seconds_a_step": run.seconds_a_step}
    return {
        "steps": run.last_step,
        **{name: None if value is None else round(value, 3) for name, value in seconds.items()},
        "skipped": int((run.steps.finite == 0).sum()),
        "swallowed_share": number(updates.get("swallowed_share")),
        "changed_share": number(updates.get("changed_share")),
        "watched_at": updates.get("step"),
        "environment_changed_at": [event["step"] for event in run.events if event["event"] == "environment"],
        "state_digest": digests[max(digests)] if digests else None,
    }


def _command(run: RunRecord) -> str:
    """The first command of a run; of a sweep's, the sweep."""
    beside = run.path.with_name(f"{run.path.name}.yaml")
    if beside.is_file():
        with open(beside, encoding="utf-8", errors="replace") as file:
            match = _OF_SWEEP.match(file.readline())
        if match:
            return f"dsrun sweep {shlex.quote(clean_value(match[2]))} --index {match[1]}"
    if not run.run.command.is_file():
        return ""
    lines = run.run.command.read_text(encoding="utf-8", errors="replace").splitlines()
    return clean_command(lines[0]) if lines else ""


def _claims(rows: Sequence[Mapping[str, Any]], is_experiment: Callable[[Path], bool]) -> list[dict[str, str]]:
    """What the files say that the commands name, as far as they are here: a run folder has its config without the comments."""
    files = dict.fromkeys(name for row in rows if (name := _file_of(row["command"])))
    quoted = [name for name in files if _is_below_here(Path(name)) and is_experiment(Path(name))]
    return [{"file": name, **said} for name in quoted if (said := head_comment(Path(name)))]


def _is_below_here(path: Path) -> bool:
    if path.is_absolute() or ".." in path.parts or path.suffix not in (".yaml", ".yml"):
        return False
    return path.is_file() and path.resolve().is_relative_to(Path.cwd().resolve())


def _file_of(command: str) -> str:
    """The sweep or config of a command; none where --set made another experiment of it than the file claims something of."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    if words[1:2] == ["sweep"]:
        return next(iter(words[2:]), "")
    is_as_written = "--config" in words[:-1] and "--set" not in words
    return words[words.index("--config") + 1] if is_as_written else ""


def head_comment(path: Path) -> dict[str, str]:
    """What a config or sweep file says of itself: `about`, its first lines, and `claim`; empty without such a comment."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# yaml-language-server"):
            lines.append(line[1:])
    parts: dict[str, list[str]] = {"about": []}
    part = "about"
    for line in lines:
        if match := _HEADING.match(line):
            part = match[1].lower()
            parts[part] = [match[2]]
        elif part == "about" or line.startswith("    "):  # a heading's text goes on, indented
            parts[part].append(line.strip())
        else:
            part = ""
            parts[part] = [line.strip()]
    return {name: clean(" ".join(parts[name])) for name in ("about", "claim") if parts.get(name)}


def clean_command(line: str) -> str:
    """A command as one types it: the program by its name, paths without the folders that are of a machine."""
    try:
        words = shlex.split(line)
    except ValueError:  # cut, or not written by dsrun
        return clean(line)
    if not words:
        return ""
    program = PurePath(words[0]).name
    if program not in DSRUN:  # somebody's own program, which trains by calling dsrun
        return shlex.join([program, *map(_clean_word, words[1:])])
    start = next((place for place, word in enumerate(words) if word in ("train", "sweep")), 1)
    return shlex.join(["dsrun", *map(_clean_word, words[start:])])


def _clean_word(word: str) -> str:
    name, equals, value = word.partition("=")
    return name + equals + clean_value(value) if equals and not _BEGINS_AS_PATH.match(name) else clean_value(word)


def clean_value(text: str) -> str:
    """A value that is a path and nothing else, blanks and all, shortened; any other text as `clean` does it."""
    return _shortened(text) if _BEGINS_AS_PATH.match(text) and "\n" not in text else clean(text)


def clean(text: str) -> str:
    """A text in which absolute paths are shortened."""
    return _ABSOLUTE.sub(lambda match: _shortened(match[0]), text)


def _shortened(path: str) -> str:
    parts = [part for part in re.split(r"[\\/]+", path.removeprefix("file:")) if part]
    kept = [place for place, part in enumerate(parts) if part in KEPT_FOLDERS and place < len(parts) - 1]
    if not kept and parts[-2:-1] and parts[-2] in USERS:
        return "~"  # the last name is a user's
    return "/".join(parts[kept[-1] if kept else -1 :])


def without_places(value: Any) -> Any:
    """JSON in which absolute paths are shortened, in texts at any depth; what is not finite is null."""
    if isinstance(value, str):
        return clean_value(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return {str(key): without_places(item) for key, item in value.items()}
    return [without_places(item) for item in value] if isinstance(value, list | tuple) else value


def _require_utterances(found: Mapping[str, Any]) -> None:
    """Raises ValueError for a set of utterances that no results could be of."""
    ids = found["ids"]
    if not all(isinstance(text, str) for text in [*ids, *found["references"]]) or len(set(ids)) < len(ids):
        raise ValueError("utterances without an id or a reference of their own")
    if not all(_is_count(length) for length in [*found["characters"], *found["words"]]):
        raise ValueError("lengths of references that are no numbers")


def _require_figures(row: Mapping[str, Any]) -> None:
    """Raises ValueError for what the page could not be made of; a record may be a stranger's."""
    events, measured, status = row["events"], row["measured"], row["status"]
    if not all(_is_count(e["step"]) and isinstance(e["event"], str) for e in events):
        raise ValueError("events without step")
    if wrong := [
        name
        for name, value in measured.items()
        if not (isinstance(value, _TYPES[name]) if name in _TYPES else value is None or number(value) is not None)
    ]:
        raise ValueError(f"measured {wrong[0]} is {measured[wrong[0]]!r}")
    if not isinstance(row["command"], str) or not _is_count(status.get("step", 0)):
        raise ValueError("a command or a step of another type")
    if not isinstance(row["provenance"].get("packages", {}), dict):
        raise ValueError("packages that are no object")
    counts = [
        n
        for found in row["results"].values()
        for unit in ("characters", "words")
        for kinds in found[unit]
        for n in kinds
    ]
    if not all(map(_is_count, counts)):
        raise ValueError("errors that are no numbers")


def _is_count(value: Any) -> bool:
    """Whether sums of it stay far from every bound."""
    return type(value) is int and 0 <= value < LONGEST


def _read_run(row: Mapping[str, Any], record: Mapping[str, Any]) -> RecordedRun:
    _require_figures(row)
    config = {**record["config"], **row["config"]}
    if isinstance(config.get("seed"), list | dict):
        raise ValueError("a seed that is none")
    scored = {split: _evaluation(found, record["utterances"][found["of"]]) for split, found in row["results"].items()}
    no_hashes = TensorHashes((), np.empty(0, np.int64), np.empty((0, 0, 2), np.uint32))
    return RecordedRun(
        RunDir(Path(record["name"]) / row["name"]),
        config,
        dict(row["provenance"]),
        dict(row["status"]),
        list(row["events"]),
        no_hashes,
        command=row["command"],
        measured=row["measured"],
        scored=scored,
    )


def _evaluation(found: Mapping[str, Any], of: Mapping[str, Any]) -> Evaluation:
    counts = {
        unit: [ErrorCount(s, d, i, length) for (s, d, i), length in zip(found[unit], of[unit], strict=True)]
        for unit in ("words", "characters")
    }
    columns = zip(of["ids"], of["references"], counts["words"], counts["characters"], strict=True)
    return Evaluation(
        tuple(
            UtteranceResult(id, reference, "", 0.0, words, characters) for id, reference, words, characters in columns
        )
    )


def _common(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all configs say alike."""
    first, *others = configs or [{}]
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


def _kinds(count: ErrorCount) -> list[int]:
    return [count.substitutions, count.deletions, count.insertions]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _lines(rows: Sequence[Any]) -> str:
    """A list with a line for each element."""
    return "[\n" + ",\n".join(_compact(row) for row in rows) + "\n]" if rows else "[]"
