"""Sweep files: one YAML file that says which runs a question needs.

    base: ../prompts_small_float32.yaml        a config, relative to this file
    set: {training.epochs: 10}                 of every run
    list:                                      named variations of several keys each; `base` and `set` are optional
      - {name: float32}
      - {name: float16, set: {arithmetic.storage: {format: float16, rounding: ties_to_even}, arithmetic.master: none}}
    zip:                                       values that go together: the first with the first, the second with the second;
      batches.global_batch: [8, 16]            or a list of several such mappings; `name: [small, large]` would name the pairs
      optimizer.learning_rate: [2.5e-4, 5e-4]
    grid:                                      every value with every other
      arithmetic.update.rounding: [ties_to_even, stochastic]
      seed: [1, 2]
    without:                                   combinations to leave out; a value may be a list of alternatives
      - {name: float32, arithmetic.update.rounding: stochastic}

The runs are list x zip x grid. What is written last changes fastest: the last key of the grid from run to run, the entries of the list
slowest, whatever the order of these sections in the file. Precedence: base < set < the entry's set < zip < grid < `--set`. Keys are
dotted; a value may be a section, which is merged into what is below it as a config is into its base.

An entry of `without` leaves out the runs in which all of its keys have these values, be they the sweep's or the base's; `name` is that
of the list or of a zip. One that leaves out nothing is a mistake, as are two runs of one config, a value that another always overrides,
and `--set` of a key that the sweep varies. Every run's config is checked before anything is trained, and all problems come at once.

On the roof beside `config_file.py`, whose reader of YAML this uses; no JAX. `sweep.py` trains what this reads.
"""

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dsrun.config import PATH_KEYS, RUNS, Config, Resolved, config_hash, flatten, resolve, to_yaml
from dsrun.config_file import (
    SWEEP_KEYS,
    Node,
    Problem,
    Unusable,
    at_key,
    merge_over,
    read_file,
    read_sets,
    similar_file,
)
from dsrun.config_messages import did_you_mean, listing
from dsrun.errors import ConfigError
from dsrun.sweep_names import LONGEST_NAME, labels_of, names_of, shown
from dsrun.sweep_sections import Choice, SectionReader

KEYS = ("base", "set", "list", "zip", "grid", "without")
MAX_RUNS = 4096


@dataclass(frozen=True)
class Variation:
    """One run of a sweep."""

    index: int
    """From 0, in the order of the module's text."""
    name: str
    """Unique in the sweep."""
    resolved: Resolved
    differs: dict[str, Any]
    """Values that are not the same in all runs, by dotted key; null where the key means nothing here."""
    paths: str = ""
    """Of data, as seen from the sweep file."""
    has_twins: bool = False
    """Another run of the sweep differs from this one in folders of paths alone, and `config_hash` leaves most of those out."""

    @property
    def folder(self) -> str:
        """Name of the run folder."""
        return f"{self.name}-{self.digits}"

    @cached_property
    def yaml(self) -> str:
        """The resolved config, as `config.yaml` of the run folder has it."""
        return to_yaml(self.resolved.config)

    @cached_property
    def hash(self) -> str:
        """The resolved config's."""
        return config_hash(self.resolved.config)

    @property
    def digits(self) -> str:
        """The first six hex digits of the resolved config's hash; where that is a twin's too, of the hash with the paths."""
        return self.possible_digits[self.has_twins]

    @property
    def possible_digits(self) -> tuple[str, str]:
        """Without twins and with them, which a sweep that grows or shrinks gets and loses."""
        return self.hash[:6], hashlib.sha256(f"{self.hash} {self.paths}".encode()).hexdigest()[:6]

    def describe(self, labels: Mapping[str, str]) -> str:
        """What differs, in a line; of a list of sections how many."""
        said = {labels[key]: value for key, value in self.differs.items() if value not in (None, [])}
        return " ".join(
            f"{label}={len(value) if isinstance(value, list) and isinstance(value[0], dict) else shown(value)}"
            for label, value in said.items()
        )


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read and checked."""

    path: Path
    variations: tuple[Variation, ...]

    @property
    def folder(self) -> Path:
        """Where its run folders are, unless --folder says otherwise."""
        return RUNS / self.path.stem

    @property
    def labels(self) -> dict[str, str]:
        """Short names of the keys that differ."""
        return labels_of(list(self.variations[0].differs))


def load_sweep(path: str | Path, sets: Sequence[str] = ()) -> Sweep:
    """Read a sweep file and check the config of each of its runs.

    Args:
        sets: `KEY=VALUE` overrides of every run.

    Raises:
        ConfigError: the text lists every problem as `file:line:column  dotted.key: message`.
    """
    reader = SectionReader(Path(path))
    if not reader.path.exists():
        raise ConfigError(f"{path}: no such file{similar_file(reader.path)}; sweep files are in configs/sweeps/")
    try:
        tree = read_file(reader.path, reader.problems)
    except Unusable as error:
        raise ConfigError(str(error.problem)) from error
    overrides = read_sets(sets, reader.problems)
    assert isinstance(tree.value, dict)
    sections = tree.value
    if not SWEEP_KEYS & sections.keys():
        raise ConfigError(
            f"{reader.path}: nothing varies here: write `grid`, `zip` or `list`, or train it with `dsrun train --config`"
        )
    reader.known_keys(sections, KEYS)
    fixed = reader.mapping(sections.get("set"), "set")
    named = reader.list_axes(sections.get("list"))
    axes = named + reader.zip_axes(sections.get("zip")) + reader.grid_axes(sections.get("grid"))
    if not axes and not reader.problems:
        reader.refuse(tree, "", "nothing varies: write `grid`, `zip` or `list`")
    if "base" not in sections and not (named and all(choice.base for choice in named[0])):
        reader.refuse(tree, "base", "missing: the config that the runs are variations of")
    reader.refuse_overridden(fixed, axes, overrides or [])
    without = reader.without(sections.get("without"))
    count = 1
    for axis in axes:
        count *= len(axis)
    if count > MAX_RUNS:
        reader.refuse(tree, "", f"{count:,} runs; at most {MAX_RUNS:,} fit one file")
    bases = [base for base in (sections.get("base"), *(choice.base for axis in named for choice in axis)) if base]
    found = [reader.base(base) for base in bases]
    if overrides is None or None in found or count > MAX_RUNS or not axes or not found:
        raise ConfigError(listing(reader.problems))
    fixed_trees = [at_key(key, node) for key, node in fixed.items()]
    combinations = _combine(reader, axes, sections.get("base"), fixed_trees, overrides)
    kept = _leave_out(reader, combinations, without)
    return Sweep(reader.path, _resolve_all(reader, kept))


def is_sweep(path: Path) -> bool:
    """Whether a file that can be read has a section that only sweeps have."""
    try:
        tree = read_file(path, [])
    except Unusable:
        return False
    return isinstance(tree.value, dict) and bool(SWEEP_KEYS & tree.value.keys())


@dataclass(frozen=True)
class _Combination:
    name: str
    given: tuple[str, ...]
    """The names that the file itself gives."""
    tree: Node


def _combine(
    reader: SectionReader,
    axes: Sequence[Sequence[Choice]],
    base: Node | None,
    fixed: Sequence[Node],
    overrides: Sequence[Node],
) -> list[_Combination]:
    """The tree of each combination, in order."""
    plain = [[{key: node.plain() for key, node in choice.values.items()} for choice in axis] for axis in axes]
    # The list names its entries itself, and a zip may.
    given = [axis[0].name is not None for axis in axes]
    made = iter(names_of([axis for axis, is_given in zip(plain, given, strict=True) if not is_given]))
    names = [
        [str(choice.name) for choice in axis] if is_given else next(made)
        for axis, is_given in zip(axes, given, strict=True)
    ]
    combinations: list[_Combination] = []
    seen: dict[str, int] = {}
    for choices in itertools.product(
        *(list(zip(axis, called, strict=True)) for axis, called in zip(axes, names, strict=True))
    ):
        name = "-".join(called for _, called in choices if called)[:LONGEST_NAME] or "run"
        seen[name] = seen.get(name, 0) + 1  # `a-b` with `c`, and `a` with `b-c`
        name = name if seen[name] == 1 else f"{name}-v{seen[name]}"
        first = choices[0][0]
        of = first.base or base
        below = reader.base(of) if of else None
        if below is None:
            continue  # told already
        values = [at_key(key, node) for choice, _ in choices for key, node in choice.values.items()]
        combinations.append(
            _Combination(
                name,
                tuple(choice.name for choice, _ in choices if choice.name),
                merge_over(below, [*fixed, *values, *overrides]),
            )
        )
    return combinations


def _leave_out(
    reader: SectionReader, combinations: Sequence[_Combination], without: Sequence[tuple[Node, dict[str, Node]]]
) -> list[_Combination]:
    """The combinations that no entry of `without` describes."""
    left_out: set[str] = set()
    for entry, values in without:
        found = [combination.name for combination in combinations if _is_described(combination, values)]
        if not found:
            _refuse_without(reader, combinations, entry, values)
        left_out |= set(found)
    kept = [combination for combination in combinations if combination.name not in left_out]
    if combinations and not kept:
        reader.refuse(without[0][0], "without", "leaves out every run")
    return kept


def _refuse_without(
    reader: SectionReader, combinations: Sequence[_Combination], entry: Node, values: Mapping[str, Node]
) -> None:
    """Name the parts of an entry that no run has, each with those that there are; or that it is all of them together."""
    parts = [key for key in values if not any(_is_described(one, {key: values[key]}) for one in combinations)]
    for key in parts:
        wanted = shown(values[key].plain())
        there = list(dict.fromkeys(shown(value) for one in combinations for value in _values_at(one, key)))
        hint = did_you_mean(wanted, there) if there else "; values count that are written, here or in the base"
        reader.refuse(values[key], f"without: {key}", f"leaves out nothing: no run has {wanted}{hint}")
    if combinations and not parts:
        reader.refuse(
            entry, "without", "leaves out nothing: no run has all of these values together; remove it or mend it"
        )


def _values_at(combination: _Combination, key: str) -> list[Any]:
    if key == "name":
        return list(combination.given)
    node = combination.tree.find(key)
    return [] if node is None or isinstance(node.value, dict | list) else [node.value]


def _is_described(combination: _Combination, values: Mapping[str, Node]) -> bool:
    for key, node in values.items():
        wanted, found = node.plain(), combination.tree.find(key)
        if key == "name" and not any(_is_value(name, wanted) for name in combination.given):
            return False
        if key != "name" and (found is None or not _is_value(found.plain(), wanted)):
            return False
    return True


def _is_value(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(key in found and _is_value(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list) and not isinstance(found, list):
        return any(_is_value(found, value) for value in wanted)
    return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)


def _resolve_all(reader: SectionReader, combinations: Sequence[_Combination]) -> tuple[Variation, ...]:
    """Variations with checked configs.

    Raises:
        ConfigError: with all problems, each with the runs that have it.
    """
    resolved: list[Resolved] = []
    refused: dict[tuple[str, str, str], list[str]] = {}
    first: dict[tuple[str, str, str], Problem] = {}
    for combination in combinations:
        problems: list[Problem] = []
        result = resolve(combination.tree, reader.path, problems)
        for problem in problems:
            key = (str(problem.place), problem.key, problem.message)
            first.setdefault(key, problem)
            refused.setdefault(key, []).append(combination.name)
        if result:
            resolved.append(result)
    told = {str(problem) for problem in reader.problems}
    for key, problem in first.items():
        if str(problem) not in told:
            message = problem.message + _in_runs(refused[key], len(combinations))
            reader.problems.append(Problem(problem.place, problem.key, message))
    if reader.problems:
        raise ConfigError(listing(reader.problems))
    _refuse_twins(reader.path, combinations, resolved)
    flat = [flatten(one.config) for one in resolved]
    keys = dict.fromkeys(key for values in flat for key in values)
    differing = [key for key in keys if any(values.get(key) != flat[0].get(key) for values in flat)]
    variations = [
        Variation(
            index, combination.name, one, {key: values.get(key) for key in differing}, _paths(values, reader.path)
        )
        for index, (combination, one, values) in enumerate(zip(combinations, resolved, flat, strict=True))
    ]
    having = Counter(variation.hash for variation in variations)
    return tuple(replace(variation, has_twins=having[variation.hash] > 1) for variation in variations)


def _paths(values: Mapping[str, Any], file: Path) -> str:
    """Paths of data as seen from the sweep file's folder, so that another checkout has the same."""
    folder = os.path.dirname(os.path.abspath(file))
    return json.dumps([values.get(key) and os.path.relpath(values[key], folder) for key in PATH_KEYS])


def _in_runs(names: Sequence[str], count: int) -> str:
    if len(names) == count:
        return ""
    more = f" and {len(names) - 1} more of {count} runs" if len(names) > 1 else ""
    return f" (in {names[0]}{more})"


def _refuse_twins(path: Path, combinations: Sequence[_Combination], resolved: Sequence[Resolved]) -> None:
    seen: dict[Config, str] = {}
    twins = []
    for combination, one in zip(combinations, resolved, strict=True):
        if one.config in seen:
            twins.append(f"{path}: {seen[one.config]} and {combination.name} are the same config")
        seen.setdefault(one.config, combination.name)
    if twins:
        raise ConfigError("\n".join([*twins, "Let one of each go, by `without` or by taking a value out."]))
