"""Whether runs that ought to have the same bits have them, step by step.

Two runs ought to be equal where config, data and seed are: on any number of devices, killed and resumed or not. Of such runs each step's
hash is a cell, coloured by the hash, and the line below says where the run differs from the first one; what is compared is
`diff.compare`'s strongest kind of record. A run without another like it has nothing to be compared with: of it the digest of its last
state is told, which another machine can be asked for (`dsrun verify RUN` repeats the first steps), and whether its circumstances
changed on the way.

A cell of a long run is a stretch of steps, its colour the hash of all their hashes. A colour is no proof: 256 hues stand for 2**64
hashes. The line below is, since it compares the hashes themselves.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dsrun.study.determinism_figure import draw_strips
from dsrun.study.diff import Compared, compare, tensors_that_differ
from dsrun.study.exhibit import Exhibit
from dsrun.study.groups import group_runs, settings_of
from dsrun.study.number_words import first_of
from dsrun.study.run_record import CHECKPOINT_DIGESTS, RunRecord
from dsrun.study.runs_table import run_names

MOST_CELLS = 120
MOST_SETS, MOST_COPIES = 6, 8  # that are drawn
MOST_NAMED = 3


@dataclass(frozen=True)
class Strip:
    """A run's hashes: a key for each cell (None: no record), and whether the cell differs from the first run's (None: not in both)."""

    name: str
    cells: tuple[str | None, ...]
    differs: tuple[bool | None, ...]


@dataclass(frozen=True)
class EqualSet:
    """Runs that ought to be equal: label, the kind of record compared, the steps of the cells, and a strip a run.

    `found` has, for each run but the first, what `compare` says of it (None: no record in common).
    """

    label: str
    what: str
    steps: tuple[tuple[int, int], ...]
    strips: tuple[Strip, ...]
    runs: tuple[RunRecord, ...]
    found: tuple[Compared | None, ...]


def determinism_strip(runs: Sequence[RunRecord]) -> Exhibit:
    """Strips of the runs that ought to be equal, and a row for each run.

    Raises:
        DataError: a record is damaged.
    """
    names = {id(run): name for run, name in zip(runs, run_names(runs), strict=True)}
    sets = [_equal_set(own, names) for own in _alike(runs)]
    answer = _answer(sets, runs, names)
    drawn = [own for own in sets if own.steps][:MOST_SETS]
    return Exhibit(
        "determinism",
        "The same bits again?",
        " ".join([answer, *_about(sets, drawn, runs)]),
        f"Strips of cells, one a step, coloured by the hash of the state. {answer}" if drawn else answer,
        [*(row for own in sets for row in _cell_rows(own)), *(_run_row(run, names[id(run)]) for run in runs)],
        partial(draw_strips, drawn) if drawn else None,
    )


def _alike(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Runs with equal settings, data and seed, where there are several."""
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        identity = json.dumps([settings_of(run), run.seed], sort_keys=True, default=str)
        found.setdefault(identity, []).append(run)
    return [own for own in found.values() if len(own) > 1]


def _equal_set(runs: list[RunRecord], names: dict[int, str]) -> EqualSet:
    # The others are held against the first that has a record in common with one of them, if any has.
    first = next((one for one in runs if any(compare(one, run) for run in runs if run is not one)), runs[0])
    runs = [first, *(run for run in runs if run is not first)]
    compared = [compare(first, run) for run in runs[1:]]
    found = tuple(own[0] if own else None for own in compared)
    kind = next((own.what for own in found if own), "")
    series = [_series(run, kind) for run in runs]
    steps = sorted(set().union(*series)) if kind else []
    cells = _cut(steps)
    # Of a cell that a run has only partly the steps that all have which have any: or equal runs of other lengths had other colours.
    shared = [[step for step in cell if all(step in own for own in series if own.keys() & set(cell))] for cell in cells]
    keys = [tuple(_key([own.get(step) for step in cell]) for cell in shared) for own in series]
    strips: list[Strip] = []
    for run, own in zip(runs, series, strict=True):
        strips.append(Strip(names[id(run)], keys[len(strips)], tuple(_differs(own, series[0], cell) for cell in cells)))
    label = f"{group_runs([first])[0].label}, seed {first.seed}"
    edges = tuple((cell[0], cell[-1]) for cell in cells)
    return EqualSet(label, kind, edges, tuple(strips[:MOST_COPIES]), tuple(runs), found)


def _series(run: RunRecord, kind: str) -> dict[int, Any]:
    """By step what is compared, of a kind as `compare` names it."""
    if kind == "tensor hashes":
        return {int(step): run.hashes.combined(row) for row, step in enumerate(run.hashes.steps.tolist())}
    return run.series.get(kind, {})


def _differs(own: dict[int, Any], first: dict[int, Any], cell: Sequence[int]) -> bool | None:
    common = [step for step in cell if step in own and step in first]
    return any(own[step] != first[step] for step in common) if common else None


def _cut(steps: Sequence[int]) -> list[list[int]]:
    """Neighbouring steps in at most `MOST_CELLS` cells."""
    size = -(-len(steps) // MOST_CELLS) if steps else 1
    return [list(steps[start : start + size]) for start in range(0, len(steps), size)]


def _key(hashes: Sequence[Any]) -> str | None:
    """One hash for a cell's; None if there is none."""
    known = [str(own) for own in hashes if own is not None]
    return hashlib.sha256("\n".join(known).encode()).hexdigest() if known else None


def _answer(sets: Sequence[EqualSet], runs: Sequence[RunRecord], names: dict[int, str]) -> str:
    parted = [
        (own, number) for own in sets for number, c in enumerate(own.found) if c and c.first_different is not None
    ]
    compared = [c for own in sets for c in own.found if c]
    if parted:
        own, number = min(parted, key=lambda pair: pair[0].found[pair[1]].first_different or 0)  # type: ignore[union-attr]
        first, other, kind = own.runs[0], own.runs[number + 1], own.found[number]
        assert kind is not None
        step = kind.first_different
        text = f"{names[id(first)]} and {names[id(other)]} part at step {step}"
        tensors = tensors_that_differ(first, other, step or 0)["tensors"] if kind.what == "tensor hashes" else []
        if tensors:
            text += f": {first_of([_tensor(tensor) for tensor in tensors], MOST_NAMED, 'tensor')} differ{'s' * (len(tensors) == 1)} first"
        rest = "" if len(compared) == 1 else f" ({len(parted)} of {len(compared)} pairs that ought to be equal are not)"
        return f"{text}{rest}."
    if compared:
        return _all_equal(sets, names)
    run = runs[0]
    digest = _last_digest(run)
    if len(runs) == 1:
        known = (
            f"The state of {names[id(run)]} after step {digest[0]} has the digest {digest[1][:16]}…" if digest else ""
        )
        unknown = f"{names[id(run)]} recorded no digest of its state"
        return f"{known or unknown}; a second run with this config and seed is not here to compare with."
    if sets:
        return "Runs that ought to be equal have no record of a step in common."
    return (
        f"No two of these {len(runs)} runs have the same config and seed, so there is nothing that ought to be equal."
    )


def _all_equal(sets: Sequence[EqualSet], names: dict[int, str]) -> str:
    """What was compared, and by how weak a record; and which runs left none, of which nothing is known."""
    pairs = [pair for own in sets for pair in zip(own.runs[1:], own.found, strict=True)]
    compared = [found for _, found in pairs if found]
    alone = [names[id(run)] for run, found in pairs if not found]
    of_losses = sum(found.what == "losses" for found in compared)
    same = "the same bits" if not of_losses else "the same losses, which say little about the state,"
    if 0 < of_losses < len(compared):
        same = f"the same bits, or ({of_losses} of {len(compared)} pairs) losses, which say little about the state,"
    rest = f"; of {first_of(alone, MOST_NAMED, 'run')} there is no record to compare with" if alone else ""
    if len(compared) == 1:
        own = next(own for own in sets if any(own.found))
        who = "The two runs that ought to be equal"
        if alone:
            other = next(run for run, found in zip(own.runs[1:], own.found, strict=True) if found)
            who = f"{names[id(own.runs[0])]} and {names[id(other)]}, which ought to be equal,"
        steps = f"all {compared[0].steps} steps" if compared[0].steps > 1 else "the one step"
        return f"{who} have {same} at {steps} that both recorded{rest}."
    count = sum(1 + sum(found is not None for found in own.found) for own in sets if any(own.found))
    every = (
        f"All {count} runs that ought to be equal to others here"
        if not alone
        else f"{count} runs that ought to be equal to others"
    )
    return f"{every} have {same} at every step in common{rest}."


def _tensor(tensor: dict[str, Any]) -> str:
    return f"{tensor['name']} ({tensor['meaning']})" if tensor.get("meaning") else str(tensor["name"])


def _about(sets: Sequence[EqualSet], drawn: Sequence[EqualSet], runs: Sequence[RunRecord]) -> list[str]:
    texts = []
    if drawn:
        kinds = sorted({own.what for own in drawn})
        texts.append(
            f"Compared are {' and '.join(kinds)}; a cell is coloured by its hash, and the line below a run is hatched where it differs "
            "from the first."
        )
        if any(first != last for own in drawn for first, last in own.steps):
            texts.append("A cell is a stretch of neighbouring steps.")
    if len([own for own in sets if own.steps]) > len(drawn):
        texts.append(f"The first {len(drawn)} sets are drawn.")
    changed = [run for run in runs if _changes(run)]
    if changed:
        texts.append(f"{len(changed)} of {len(runs)} runs went on under other circumstances than they began with.")
    modes = sorted({str(run.config.get("determinism", "unknown")) for run in runs})
    texts.append(f"Determinism: {', '.join(modes)}.")
    texts.append("A folder does not say whether somebody repeated a run; dsrun verify RUN does it.")
    return texts


def _changes(run: RunRecord) -> list[int]:
    """Steps after which a run went on under other circumstances."""
    return sorted(event["step"] for event in run.events if event["event"] == "environment")


def _last_digest(run: RunRecord) -> tuple[int, str] | None:
    """Step and digest of the last state that was digested, of all its bits; the checkpoint's for older runs."""
    for kind in ("state digests", CHECKPOINT_DIGESTS):
        known = {step: digest for step, digest in run.series[kind].items() if isinstance(digest, str)}
        if known:
            return max(known), known[max(known)]
    return None


def _cell_rows(own: EqualSet) -> list[dict[str, Any]]:
    return [
        {
            "set": own.label,
            "run": strip.name,
            "what": own.what,
            "first step": first,
            "last step": last,
            "hash": None if key is None else key[:16],
            "differs from the first run": differs,
        }
        for strip in own.strips
        for (first, last), key, differs in zip(own.steps, strip.cells, strip.differs, strict=True)
    ]


def _run_row(run: RunRecord, name: str) -> dict[str, Any]:
    digest = _last_digest(run)
    return {
        "run": name,
        "what": "last state",
        "last step": digest[0] if digest else run.last_step,
        "digest": digest[1] if digest else None,
        "determinism": run.config.get("determinism"),
        "steps with hashes": len(run.hashes.steps) or len(run.series["state hashes"]),
        "circumstances changed at": " ".join(map(str, _changes(run))) or None,
    }
