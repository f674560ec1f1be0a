"""Each dev utterance's result of the best checkpoint, left in the run folder while the run is trained.

On the roof, between the loop, which finds a new best, and the room `evaluation`, whose file it is: RUN/evaluation/<dev's stem>.jsonl,
byte for byte what `dsrun eval RUN --manifest DEV` writes for the best checkpoint. Nothing is computed for it: the results are those of
the evaluation that the loop makes in any case.

The file is replaced as soon as a best is found, so a killed run leaves that of its last best. A resumed run may know of an earlier one
only: what its checkpoint does not know of happens again, and until then the file is gone. Every line has the step of its checkpoint,
which tells. Where a run ends without the file (its best was found by an older version of dsrun, or a folder was mended by hand) the
best checkpoint is evaluated for it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsrun.config import Config
from dsrun.evaluation.results import Evaluation, own_results, results_text, step_of_results
from dsrun.record import RunDir, write_atomically
from dsrun.speech import Utterance, read_manifest

Facts = dict[str, tuple[float | None, str | None]]


def facts_of(utterances: list[Utterance]) -> Facts:
    """Seconds and speaker by utterance id, where the manifest has them."""
    return {u.id: (u.duration or None, u.speaker) for u in utterances}


def own_manifests(config: Config) -> dict[str, str | None]:
    """Paths of a run's splits."""
    return {"train": config.data.train, "dev": config.data.dev, "test": config.data.test}


def all_manifests(config: Config) -> dict[str, str]:
    """Paths of all manifests whose digests a run's provenance has: its splits, and noises and rooms where it is trained in some."""
    names = own_manifests(config)
    if config.augment:
        noise, reverb = config.augment.noise, config.augment.reverb
        names |= {name: part.manifest for name, part in (("noise", noise), ("reverb", reverb)) if part}
    return {name: path for name, path in names.items() if path is not None}


@dataclass(frozen=True)
class DevResults:
    """The file of one run; make it with `of`."""

    path: Path
    facts: Facts
    decoder: dict[str, Any]

    @classmethod
    def of(cls, run: RunDir, config: Config, digests: dict[str, str], decoder: dict[str, Any]) -> "DevResults":
        """Of a run that is about to be trained; reads the manifest.

        Args:
            digests: of the manifests, by split. decoder: what decodes, as it describes itself.
        """
        stem = own_results("dev", own_manifests(config), digests)
        return cls(run.evaluation / f"{stem}.jsonl", facts_of(read_manifest(Path(config.data.dev))), decoder)

    def settle(self, best_step: int | None) -> None:
        """Remove results of a checkpoint that a run which starts or resumes does not know of; None: it knows of none."""
        if self.path.exists() and (best_step is None or step_of_results(self.path) != best_step):
            self.path.unlink()

    def keep(self, step: int, result: Evaluation) -> None:
        """Replace the file by the results of a new best.

        Raises:
            CannotWriteError: the disk takes no more.
        """
        self.path.parent.mkdir(exist_ok=True)
        write_atomically(self.path, results_text(result.with_facts(self.facts), step=step, decoder=self.decoder))
