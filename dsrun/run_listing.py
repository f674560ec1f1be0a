"""A line for each run folder: how far it is, how it went, what it is about. For hundreds of runs, so nothing is read that is not shown.

On the roof beside `inspection.py`. No JAX, and of a run's files only these:

* `status.json` whole; `.lock` and `costs.json` or the beginning of `log.txt` for what `study/run_state.py` decides.
* of `config.yaml` the sections that the line shows; runs of a sweep share their text, and a text is parsed once.
* of `events.jsonl` the evaluations, and of each step two numbers, cut out of the line without reading the rest of it. A line that is
  not as dsrun writes it is parsed whole, so that damage is an error here too, unless it is in what was passed over.

A damaged run is named on stderr and left out: the others are still worth a list.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from dsrun.cli_tables import printable_lines
from dsrun.config_file import Problem, Source, Unusable, parse_yaml
from dsrun.errors import DsrunError, UsageError
from dsrun.inspection import is_run_folder, read_values
from dsrun.record import RunDir
from dsrun.record.events import number, parse_record
from dsrun.record.provenance import dotted
from dsrun.study.run_record import test_rate
from dsrun.study.run_state import state_of, total_steps
from dsrun.study.styles import label_of

SECTIONS = ("seed", "data", "arithmetic", "training", "determinism")
NOT_READ = (b'{"event": "watch"', b'{"event": "digest"', b'{"event": "checkpoint"')
STEP, SECONDS, WAIT = b'{"event": "step"', b'"seconds": ', b'"data_wait_seconds": '
MOST_LOSSES = 400
_TOP_LEVEL = re.compile(r"^(?=[^\s#])", re.MULTILINE)
_SECTION = re.compile(r"([a-z_]+):")


def list_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """A row for each run in folders and, one level deeper, in sweeps' folders there; by folder and name.

    Returns:
        JSON's types, None for what is not known. `dev_cer`: the best; `dev_cers`: of all evaluations, or of a run without any
        `losses` of some training steps. `minutes`: of training. `data_wait`: share of them spent waiting for batches.
    """
    rows = []
    for path in dict.fromkeys(path for folder in folders for path in folders_of_runs(folder)):
        try:
            rows.append(describe_run(path))
        except (DsrunError, OSError) as error:  # of another version of dsrun, or damaged
            print(printable_lines(f"{path}: {error}"), file=sys.stderr)
    return rows


def folders_of_runs(folder: Path) -> list[Path]:
    """The folder itself if it is a run's; else those in it and in the folders in it."""
    if is_run_folder(folder):
        return [folder]
    found = {file.parent for depth in ("*", "*/*") for file in folder.glob(f"{depth}/config.yaml")}
    return sorted(path for path in found if path.parent == folder or path.parent not in found)


def describe_run(path: Path) -> dict[str, Any]:
    """The row of one run.

    Raises:
        UsageError: the config is no YAML that dsrun reads, or a name leads out of the folder.
        DataError: a file is damaged.
    """
    run = RunDir(path)
    run.require_own_contents()  # a pipe would never answer
    config = _config(run)
    status, told = run.read_status(), read_told(run.events)
    seconds, recorded = told.training_seconds(), sum(told.seconds)
    best = min((cer for cer in told.dev_cers if cer is not None), default=None)
    return {
        "run": str(path),
        "state": state_of(run, status),
        "step": status.get("step", 0),
        "total_steps": total_steps(run, config),
        "dev_cer": best,
        "test_cer": test_rate(config.get("data.test"), status, "cer"),
        "dev_cers": told.dev_cers,
        "losses": [] if told.dev_cers else told.losses(),
        "arithmetic": label_of(config),
        "storage": config.get("arithmetic.storage.format"),
        "compute": config.get("arithmetic.compute.format"),
        "seed": config.get("seed"),
        "minutes": None if seconds is None else seconds / 60,
        "data_wait": told.wait / recorded if recorded and told.wait is not None else None,
        "determinism": _determinism(config, told),
    }


@dataclass
class Told:
    """What `events.jsonl` says, as far as a line shows it."""

    path: Path
    dev_cers: list[float | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of the steps that are on record
    wait: float | None = None
    changed_at: list[int] = field(default_factory=list)
    steps: list[tuple[int, bytes]] = field(default_factory=list)  # number and text of each step's line

    def training_seconds(self) -> float | None:
        """As `RunRecord.training_seconds`: steps that `training.log_every_steps` left out count as the median one.

        Raises:
            DataError: the last step's line is no record.
        """
        if not self.seconds:
            return None
        place, line = self.steps[-1]
        missing = max(int(parse_record(line, f"{self.path}:{place}")["step"]) - len(self.steps), 0)
        return sum(self.seconds) + missing * median(self.seconds)

    def losses(self, most: int = MOST_LOSSES) -> list[float | None]:
        """Of training steps, evenly spread, so many at most."""
        chosen = self.steps[:: max(-(-len(self.steps) // most), 1)]
        return [number(parse_record(line, f"{self.path}:{place}").get("loss")) for place, line in chosen]


def read_told(path: Path) -> Told:
    """What the events say.

    Raises:
        DataError: a line that had to be parsed whole is no record.
    """
    told = Told(path)
    if not path.exists():
        return told
    *lines, _cut = path.read_bytes().split(b"\n")
    for place, line in enumerate(lines, 1):
        if line.startswith(STEP) and line.endswith(b"}"):
            told.steps.append((place, line))
            try:
                seconds, wait = _number_after(SECONDS, line), _number_after(WAIT, line)
            except ValueError:
                record = parse_record(line, f"{path}:{place}")
                seconds, wait = number(record.get("seconds")), number(record.get("data_wait_seconds"))
            if seconds is not None:
                told.seconds.append(seconds)
                told.wait = told.wait if wait is None else (told.wait or 0.0) + wait
        elif not line.startswith(NOT_READ):
            _take(told, parse_record(line, f"{path}:{place}"))
    return told


def _number_after(name: bytes, line: bytes) -> float | None:
    """The number behind a name; None for null or where there is no such name."""
    text = line.partition(name)[2].partition(b",")[0].rstrip(b"}")
    return None if not text or text == b"null" else number(float(text))


def _take(told: Told, record: Mapping[str, Any]) -> None:
    kind = record["event"]
    if kind == "eval":
        told.dev_cers.append(number(record.get("cer")))
    elif kind == "environment":
        told.changed_at.append(record["step"])


def _config(run: RunDir) -> dict[str, Any]:
    """The values that a line shows, by dotted key; all of them where the file is not laid out as dsrun writes it."""
    try:
        text = run.config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{run.config}: cannot be read as UTF-8 text: {error}.") from None
    found: dict[str, Any] = {}
    parts = [part for part in _TOP_LEVEL.split(text) if part.strip()]
    if not all(_SECTION.match(part) for part in parts):
        return read_values(run.path)
    for part in parts:
        if part.partition(":")[0] in SECTIONS:
            found |= _section(part)
    return found


@cache
def _section(text: str) -> Mapping[str, Any]:
    problems: list[Problem] = []
    try:
        tree = parse_yaml(text, Source("config.yaml", 0, Path()), problems)
    except Unusable as error:
        problems.append(error.problem)
    if problems:
        raise UsageError("; ".join(map(str, problems)))
    return dotted(tree.plain())


def _determinism(config: Mapping[str, Any], told: Told) -> str:
    """The config's, and where the run went on under other circumstances than it began with."""
    changed = f", changed at {' '.join(map(str, told.changed_at))}" if told.changed_at else ""
    return f"{config.get('determinism', 'strict')}{changed}"
