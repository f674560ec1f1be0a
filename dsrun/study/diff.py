"""Where two runs part: the first step and the tensors that differ there, how far, and what else differs that may explain it.

Run folders are read and nothing else. What is compared, the strongest first; a kind counts where both runs have it for the same steps:

| what | from | equal means |
|---|---|---|
| tensor hashes | `tensor_hashes.bin` | every tensor of the state, but for one change in 2**64 |
| state hashes | `state_hash` of `step` events | the same, of all tensors together |
| state digests | `digest` events, `state_digest` of checkpoints' | every bit of the state |
| checkpoint digests | `digest` of `checkpoint` events | every bit of the state and the best so far; the only kind of older runs |
| losses | `loss` of `step` events | that number, which says little about the state |

The hash of step n is of the state after n updates, the loss of step n of the state before: a bit that flips in update 17 is in the
hashes of step 17 and, if it is large enough, in the loss of step 18.

Two runs are the same if everything that was compared is equal at all steps in common; one may be shorter. What differs in config,
provenance and flags is told in either case. How far tensors are apart is read from checkpoints: of the first step that differs, or of
the next one that both still have.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dsrun.errors import DataError, UsageError
from dsrun.record.provenance import dotted
from dsrun.record.tensor_hashes import TensorHashes
from dsrun.study.run_record import CHECKPOINT_DIGESTS, RunRecord
from dsrun.study.tensor_distance import distance

FLAG_SECTIONS = ("in_force", "variables")  # of provenance.json
XLA_FLAGS = "in_force.XLA_FLAGS"
ABSENT = None


@dataclass(frozen=True)
class Compared:
    """One kind of record beside its like: steps in common, up to which they are equal, and the first that differs (None: none)."""

    what: str
    steps: int
    equal_up_to: int | None
    first_different: int | None


def diff_runs(a: RunRecord, b: RunRecord) -> dict[str, Any]:
    """The report that `dsrun diff` prints.

    Raises:
        UsageError: there is nothing to compare: no step in common.
        DataError: a record is damaged.
    """
    compared = compare(a, b)
    if not compared:
        raise UsageError(
            f"{a.run.path} and {b.run.path}: no step in common (they have records up to step {a.last_step} and {b.last_step}), so nothing "
            "can be compared."
        )
    parted = [kind for kind in compared if kind.first_different is not None]
    report: dict[str, Any] = {
        "a": str(a.run.path),
        "b": str(b.run.path),
        "same": not parted,
        "compared": [asdict(kind) for kind in compared],
        "last_step": [a.last_step, b.last_step],
        "equal_up_to": (parted or compared)[0].equal_up_to,
        "first_different": min(
            (kind.first_different for kind in parted if kind.first_different is not None), default=None
        ),
        "tensors": [],
        "tensors_in_one_only": [],
        "tensors_hashed": 0,
        "checkpoint": None,
        "checkpoint_notes": [],
        "first_different_loss": _first_different_loss(a, b),
    }
    if parted and parted[0].what == "tensor hashes":
        report |= tensors_that_differ(a, b, parted[0].first_different or 0)
    if parted:
        report |= _checkpoints_apart(a, b, report["first_different"])
    return report | _circumstances(a, b)


def compare(a: RunRecord, b: RunRecord) -> list[Compared]:
    """Each kind of record that both runs have of the same steps, the strongest first."""
    found = [_compare_tensor_hashes(a, b)]
    series_a, series_b = a.series, b.series
    for what in series_a:
        # Besides the state they hold what evaluations said, so they are asked only where nothing else knows the state.
        if what != CHECKPOINT_DIGESTS or not any(found):
            found.append(_compare_series(what, series_a[what], series_b[what]))
    return [kind for kind in found if kind]


def _compare_series(what: str, a: Mapping[int, Any], b: Mapping[int, Any]) -> Compared | None:
    common = sorted(a.keys() & b.keys())
    different = next((place for place, step in enumerate(common) if a[step] != b[step]), None)
    return _compared(what, common, different)


def _compare_tensor_hashes(a: RunRecord, b: RunRecord) -> Compared | None:
    common, rows_a, rows_b = np.intersect1d(a.hashes.steps, b.hashes.steps, return_indices=True)
    if not len(common):
        return None
    if a.hashes.names != b.hashes.names:
        return _compared("tensor hashes", common.tolist(), 0)
    differing = (a.hashes.words[rows_a] != b.hashes.words[rows_b]).any(axis=1)
    place = int(np.argmax(differing)) if differing.any() else None
    step = int(common[-1 if place is None else place])
    for record in (a, b):
        record.row(step)  # a damaged file must not pass for a run that differs
    return _compared("tensor hashes", common.tolist(), place)


def _compared(what: str, common: list[int], different: int | None) -> Compared | None:
    if not common:
        return None
    if different is None:
        return Compared(what, len(common), common[-1], None)
    return Compared(what, len(common), common[different - 1] if different else None, common[different])


def _first_different_loss(a: RunRecord, b: RunRecord) -> dict[str, Any] | None:
    losses_a, losses_b = a.series["losses"], b.series["losses"]
    for step in sorted(losses_a.keys() & losses_b.keys()):
        if losses_a[step] != losses_b[step]:
            return {"step": step, "a": losses_a[step], "b": losses_b[step]}
    return None


def tensors_that_differ(a: RunRecord, b: RunRecord, step: int) -> dict[str, Any]:
    """Of a step that both runs have tensor hashes of: the tensors that differ, those that only one has, and how many both have."""
    words_a = dict(zip(a.hashes.names, a.hashes.words[a.row(step)].tolist(), strict=True))
    words_b = dict(zip(b.hashes.names, b.hashes.words[b.row(step)].tolist(), strict=True))
    common = [name for name in words_a if name in words_b]
    return {
        "tensors": [_named(name, a.hashes) for name in common if words_a[name] != words_b[name]],
        "tensors_in_one_only": sorted(words_a.keys() ^ words_b.keys()),
        "tensors_hashed": len(common),
    }


def _named(name: str, hashes: TensorHashes) -> dict[str, Any]:
    return {"name": name, "kind": kind_of(name), "meaning": hashes.meanings.get(name)}


def kind_of(name: str) -> str:
    """What a tensor of the state is: the field of the state that it is in, e.g. master or optimizer."""
    return name.split("/")[0]


def _checkpoints_apart(a: RunRecord, b: RunRecord, step: int) -> dict[str, Any]:
    """Distances of the tensors at the first step from `step` on of which both runs have a good checkpoint."""
    # Here and not above: Orbax takes seconds to import, and two equal runs do not need it.
    from dsrun.training.checkpoint import available_steps, restore

    steps = [set(available_steps(record.run.checkpoints)) for record in (a, b)]
    notes = []
    for common in sorted(number for number in steps[0] & steps[1] if number >= step):
        try:
            first, second = (_state(restore(record.run.checkpoints, common).arrays) for record in (a, b))
        except DataError as error:
            notes.append(str(error))
            continue
        tensors = list(_distances(first, second, a.hashes))
        return {"checkpoint": {"step": common, "tensors": tensors}, "checkpoint_notes": notes}
    notes.append(
        f"no checkpoint of step {step} or later is in both folders, so nobody knows how far the tensors are apart. Train both again with "
        f"--set training.checkpoint_every_steps={step} --set training.keep_every_steps={step}, which keeps one."
    )
    return {"checkpoint_notes": notes}


def _state(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A checkpoint's tensors of the training state, by the names that their hashes have."""
    from dsrun.training.state_digest import flatten

    return flatten(arrays.get("state", {}))


def _distances(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], hashes: TensorHashes
) -> Iterable[dict[str, Any]]:
    for name in sorted(a.keys() & b.keys()):
        named = _named(name, hashes) | {"dtype": a[name].dtype.name, "shape": list(a[name].shape)}
        if (a[name].dtype, a[name].shape) != (b[name].dtype, b[name].shape):
            yield named | {"other": f"{b[name].dtype.name}{list(b[name].shape)}"}
            continue
        found = asdict(distance(a[name], b[name]))
        if found["differing"]:
            yield named | found


def _circumstances(a: RunRecord, b: RunRecord) -> dict[str, Any]:
    """Differences in config, provenance and flags, and changes that a run noted when it went on."""
    facts = differences(_flag_by_flag(dotted(a.facts)), _flag_by_flag(dotted(b.facts)))
    is_flag = [row["key"].split(".")[0] in FLAG_SECTIONS for row in facts]
    return {
        "config": differences(a.config, b.config),
        "flags": [row for row, flag in zip(facts, is_flag, strict=True) if flag],
        "provenance": [row for row, flag in zip(facts, is_flag, strict=True) if not flag],
        "changed_on_the_way": [
            {"run": name, "step": event["step"], "changed": event.get("changed")}
            for name, record in (("a", a), ("b", b))
            for event in record.events
            if event["event"] == "environment"
        ],
    }


def _flag_by_flag(facts: dict[str, Any]) -> dict[str, Any]:
    """Provenance with the text of XLA_FLAGS taken apart: of twenty flags the one that differs is the answer, whatever their order."""
    flags = (token.partition("=") for token in str(facts.pop(XLA_FLAGS, "")).split())
    return facts | {f"{XLA_FLAGS} {name}": value if equals else "true" for name, equals, value in flags}


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of key and both values where two flat dictionaries differ; a missing value is None."""
    keys = dict.fromkeys([*a, *b])
    return [
        {"key": key, "a": a.get(key, ABSENT), "b": b.get(key, ABSENT)}
        for key in keys
        if a.get(key, ABSENT) != b.get(key, ABSENT)
    ]
