"""Where training begins if not at random: `init_from`, another run's best checkpoint.

On the roof. Taken from that run are the weights (its master copy, in float32), the running statistics of its normalisations, and mean
and deviation of the features, without which the weights would be given other numbers than they have learnt from. Not taken: step,
optimizer, loss scale and schedule, which begin anew, the seed, and all of the arithmetic: the weights are rounded to this config's master
format, where that is not float32, as random ones are.

Alphabet, features and network must be that run's; what only training knows of (dropout, residuals, momentum of the statistics) is free.

The path says where the weights were and not which they are, so provenance has the checkpoint's digest. What goes on later
(`dsrun train` of the same command) has a checkpoint of its own, which is all it needs: the other run's folder may be gone by then.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsrun import build
from dsrun.config import Config, flatten, load_config
from dsrun.errors import DataError, UsageError
from dsrun.record import RunDir, read_provenance
from dsrun.speech import Alphabet, Normalization
from dsrun.trained import require_complete, require_fitting
from dsrun.training import checkpoint as checkpoints
from dsrun.training.state import Beginning

SAME = ("features.", "model.", "data.sample_rate")  # settings that must be the other run's
FREE = ("model.dropout", "model.residuals", "model.statistics_momentum")  # of these, what only training knows of
KEY = "init_from"


@dataclass(frozen=True)
class Origin:
    """Another run that training begins with, or began with.

    Fields:
        path: its folder. symbols: of its alphabet, in class order. normalization: of its features.
        facts: what provenance says of it. beginning: weights and statistics; None of a run that has a checkpoint of its own.
    """

    path: Path
    symbols: tuple[str, ...]
    normalization: Normalization
    facts: dict[str, Any]
    beginning: Beginning | None = None

    def event(self, before: dict[str, Any]) -> dict[str, Any]:
        """What events.jsonl says at step 0; `before` is what dev gave before any update, in this config's arithmetic."""
        return {"run": self.facts["run"], "of_step": self.facts["step"], "digest": self.facts["digest"]} | before

    def describe(self, before: dict[str, Any]) -> str:
        """The same in words."""
        return (
            f"{KEY}: begins with {self.path}, step {self.facts['step']}: weights, statistics, feature normalisation; before any update dev "
            f"CER {before['cer']:.3f}  WER {before['wer']:.3f} in this config's arithmetic"
        )

    def require_alphabet(self, alphabet: Alphabet) -> None:
        """Raises UsageError if classes would not mean the same characters."""
        if self.symbols == alphabet.symbols:
            return
        missing, added = set(self.symbols) - set(alphabet.symbols), set(alphabet.symbols) - set(self.symbols)
        sides = [
            f"only {where}: {''.join(sorted(some))!r}" for where, some in (("there", missing), ("here", added)) if some
        ]
        there, here = "".join(self.symbols), "".join(alphabet.symbols)
        raise UsageError(
            f"{KEY}: {self.path} writes the {len(there)} symbols {there!r}, this config the {len(here)} symbols {here!r} "
            f"({'; '.join(sides) or 'in another order'}). Give the run's symbols in a file, one a line, as data.alphabet, with "
            "data.unknown_characters: drop where the texts have others."
        )


def find_origin(config: Config, *, resumed: RunDir | None = None) -> Origin | None:
    """What a config's training begins with; None for random weights. The runtime is started.

    Args:
        resumed: the run folder of this config; if it has a checkpoint, `init_from` is not read any more.

    Raises:
        UsageError: no run is there, or it is of another network or other features.
        DataError: its checkpoint is damaged, or none is the best.
    """
    if config.init_from is None:
        return None
    path = Path(config.init_from)
    if resumed and checkpoints.available_steps(resumed.checkpoints):
        return _of_resumed(path, resumed)
    return _of_run(path, config)


def refuse_itself(config: Config, run: RunDir) -> None:
    """Raises UsageError for a run that is to begin with itself: --overwrite would remove what it begins with."""
    if config.init_from is not None and Path(config.init_from).resolve() == run.path.resolve():
        raise UsageError(f"{KEY}: {config.init_from} is this run's own folder. Train in another --run-dir.")


def _of_run(path: Path, config: Config) -> Origin:
    run = RunDir(path)
    if not run.config.is_file():
        raise UsageError(
            f"{KEY}: {path} is not a run folder (no config.yaml there). Train that run first, or name one that is there (`dsrun runs`): "
            f"--set {KEY}=runs/NAME. null begins with random weights."
        )
    run.require_own_contents()
    there = load_config(run.config).config
    _require_same_network(path, there, config)
    try:
        found = checkpoints.restore(run.checkpoints, "best")
    except DataError as error:
        raise DataError(f"{KEY}: {error}") from error
    require_complete(found, run)
    symbols = tuple(found.meta["alphabet"])
    require_fitting(found, build.build_model_settings(there, num_classes=len(symbols) + 1), run)
    state = found.arrays["state"]
    return Origin(
        path,
        symbols,
        Normalization.from_arrays(found.arrays["features"]),
        {"run": path.name, "step": found.step, "digest": found.digest},
        Beginning(state["master"], state.get("statistics", {})),
    )


def _of_resumed(path: Path, run: RunDir) -> Origin:
    """As it was when the run began, from its own folder."""
    found = checkpoints.restore(run.checkpoints, "last")
    require_complete(found, run)
    facts = read_provenance(run.provenance).get(KEY) if run.provenance.is_file() else None
    known = facts if isinstance(facts, dict) else {"run": path.name, "step": None, "digest": None}
    return Origin(path, tuple(found.meta["alphabet"]), Normalization.from_arrays(found.arrays["features"]), known)


def _require_same_network(path: Path, there: Config, here: Config) -> None:
    """Raises UsageError with all settings of network and features that differ."""
    then, now = flatten(there), flatten(here)
    keys = [key for key in dict.fromkeys([*then, *now]) if key.startswith(SAME) and key not in FREE]
    texts = [
        f"  {key}: {_shown(then, key)} there, {_shown(now, key)} here" for key in keys if then.get(key) != now.get(key)
    ]
    if texts:
        raise UsageError(
            f"{KEY}: {path} has another network or other features than this config:\n"
            + "\n".join(texts)
            + f"\nWrite them as they are there ({path / 'config.yaml'}), or begin with another run."
        )


def _shown(values: dict[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "not set"
