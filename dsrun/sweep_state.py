"""How far the runs of a sweep are, from their folders alone; no JAX.

| state | what it is | the next `dsrun sweep` |
|---|---|---|
| new | no run folder | trains it |
| at step n | begun, and stopped or killed | goes on from its last checkpoint |
| done | | leaves it alone |
| diverged | numbers that were not finite (exit code 4): a result, and the same bits would come again | leaves it alone, unless --retry |
| failed | ended by another error, such as a full disk | goes on from its last checkpoint |
| differs | the folder holds a run of another config | lets `dsrun train` refuse it, with the difference |

A run is found by its folder's six digits and then its config, whatever it was called: a value added to the grid may change the
names of runs that are there already, and they are not trained again for that. No folder is the run of two variations.

A folder may come from another machine, where the data have other paths. It is the same run if the config's hash is, which has a path's
last two parts alone, and if what its `provenance.json` says of the manifests is true of those that are here: `a/en/train.jsonl` is not
`b/en/train.jsonl`, and where a sweep has both, a folder without such proof is that of the paths that its digits say.
"""

import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dsrun.config import config_hash, load_config
from dsrun.dev_results import all_manifests
from dsrun.errors import DataError, DsrunError
from dsrun.record import RunDir, read_events
from dsrun.record.events import number
from dsrun.record.provenance import read_provenance
from dsrun.speech import file_digest
from dsrun.study import run_state
from dsrun.study.run_record import test_rate
from dsrun.sweep_file import Sweep, Variation

Kind = Literal["new", "begun", "done", "diverged", "failed", "differs"]
_ENDS: dict[str, Kind] = {"done": "done", "diverged": "diverged", "failed": "failed"}


@dataclass(frozen=True)
class RunState:
    """What a run folder says."""

    kind: Kind
    step: int = 0
    dev_cer: float | None = None
    """Lowest so far."""
    test_cer: float | None = None
    seconds: float | None = None
    """Of its training steps; of done runs."""
    note: str | None = None
    is_in_use: bool = False
    """A process on this machine, or one that shares the file system, works in the folder."""

    def __str__(self) -> str:
        text = f"at step {self.step}" if self.kind == "begun" else self.kind
        return f"{text}, in use" if self.is_in_use else text

    @property
    def is_over(self) -> bool:
        """Nothing is left to train."""
        return self.kind in ("done", "diverged")


def run_folders(sweep: Sweep, folder: Path) -> list[Path]:
    """Where each variation's run is, or will be."""
    present = [path.parent for path in folder.glob("*/config.yaml")] if folder.is_dir() else []
    by_digits: dict[str, list[Path]] = {}
    for path in sorted(present):
        by_digits.setdefault(path.name.rsplit("-", 1)[-1], []).append(path)
    found = [folder / variation.folder for variation in sweep.variations]
    reserved = set(found) & set(present)
    for place, variation in enumerate(sweep.variations):
        usual = found[place]
        others = [path for digits in variation.possible_digits for path in by_digits.get(digits, ())]
        if others := [path for path in others if path not in reserved]:
            likeness = {path: _likeness(path, variation) for path in [usual, *others]}
            found[place] = max(likeness, key=likeness.__getitem__)  # of equals the first
            reserved.add(found[place])
    return found


def _likeness(path: Path, variation: Variation) -> int:
    """2 for a run folder of this variation, 1 for one with other paths, 0 for none or another."""
    try:
        config = load_config(path / "config.yaml").config
        if config == variation.resolved.config:
            return 2
        if config_hash(config) != variation.hash:
            return 0
        has_same_data = _has_same_data(path, variation)
    except DsrunError:
        return 0
    if has_same_data is None:
        has_same_data = not variation.has_twins or path.name.endswith(f"-{variation.digits}")
    return int(has_same_data)


def _has_same_data(path: Path, variation: Variation) -> bool | None:
    """Whether the variation's manifests, and the weights it begins with, are those that the run began with; None where none is known here.

    Raises:
        DataError: provenance.json is damaged.
    """
    file = RunDir(path).provenance
    facts = read_provenance(file) if file.is_file() else {}
    digests = facts.get("data")
    if not isinstance(digests, dict):
        return None
    config = variation.resolved.config
    here = {name: digest_here(manifest) for name, manifest in all_manifests(config).items() if name in digests}
    compared = [digest == digests[name] for name, digest in here.items() if digest]
    origin = facts.get("init_from")
    if config.init_from and isinstance(origin, dict) and (digest := best_digest_here(config.init_from)):
        compared.append(digest == origin.get("digest"))
    return all(compared) if compared else None


def best_digest_here(path: str) -> str | None:
    """Digest of the best checkpoint of a run folder, by its manifests alone; None where it cannot be read."""
    try:
        manifests = sorted(
            RunDir(Path(path)).checkpoints.glob("step_*/manifest.json"), key=lambda m: int(m.parent.name[5:])
        )
        best = json.loads(manifests[-1].read_bytes())["best"]
        return next(str(json.loads(m.read_bytes())["digest"]) for m in manifests if int(m.parent.name[5:]) == best)
    except (OSError, ValueError, LookupError, TypeError, StopIteration, RecursionError):
        return None


def digest_here(path: str) -> str | None:
    """SHA-256 of a manifest; None where it cannot be read."""
    with suppress(OSError, DataError):
        about = os.stat(path)
        if stat.S_ISREG(about.st_mode):
            return _digest(path, about.st_size, about.st_mtime_ns)
    return None


@cache
def _digest(path: str, size: int, changed: int) -> str:
    return file_digest(Path(path))


def state_of(variation: Variation, path: Path) -> RunState:
    """How far the run in a folder is."""
    run = RunDir(path)
    if not run.config.is_file():
        return RunState("new")
    is_same = run.config.read_bytes() == variation.yaml.encode()
    if not is_same and not _likeness(path, variation):
        return RunState("differs", note="the folder holds a run of another config, or on other data")
    try:
        run.require_own_contents()
        status, events = run.read_status(), read_events(run.events)
    except DsrunError as error:
        return RunState("failed", note=str(error))
    kind: Kind = _ENDS.get(run_state.state_of(run, status), "begun")
    steps = [event for event in events if event["event"] == "step"]
    rates = [cer for e in events if e["event"] == "eval" and (cer := number(e.get("cer"))) is not None]
    return RunState(
        kind,
        step=max([status.get("step", 0), *(event["step"] for event in steps)]),
        dev_cer=min(rates, default=None),
        test_cer=test_rate(variation.resolved.config.data.test, status, "cer"),
        seconds=_seconds(steps) if kind == "done" else None,
        note=None if is_same else "its config.yaml has other paths, or was written by another version of dsrun",
        is_in_use=is_in_use(path),
    )


def _seconds(steps: Sequence[dict[str, Any]]) -> float | None:
    known = [seconds for event in steps if (seconds := number(event.get("seconds"))) is not None]
    return sum(known) if known else None


def is_in_use(path: Path) -> bool:
    """Whether some process works in a run folder at this moment, as far as this machine's file system says."""
    try:
        return RunDir(path).is_in_use()
    except (OSError, DataError):
        return False
