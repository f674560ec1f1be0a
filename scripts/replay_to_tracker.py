"""Feed run folders to an experiment tracker: events.jsonl stays the truth, and a tracker can be given it at any time, or again.

    python scripts/replay_to_tracker.py --to tensorboard runs/formats --out DIR
    python scripts/replay_to_tracker.py --to jsonl | wandb | mlflow | trackio RUN... [--project NAME] [--out DIR] [--follow]

dsrun depends on no tracker. Each adapter below is what a run needs of one: `write` a record (`dsrun/study/replay.py`), `restart` when a
followed run cut its records back, `flush`, `close`. A new one is such a class and a line in ADAPTERS. What a tracker has no form for is
left out: curves go to all of them, histograms to tensorboard, jsonl and wandb, samples to tensorboard and jsonl.

Tried with files on one machine: tensorboard (tensorboardX 2.6.5), jsonl, wandb 0.31 offline, mlflow-skinny 3.17 with sqlalchemy and
alembic, trackio 0.43; no server.

Nobody's server is asked for unless the tracker's own settings say so: wandb is started offline (`wandb sync DIR/wandb/offline-run-*`
uploads it, WANDB_MODE=online does so at once), mlflow writes to MLFLOW_TRACKING_URI or to DIR/mlflow.db, trackio to its folder at home
(TRACKIO_DIR moves it).
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsrun.cli_tensorboard import replay
from dsrun.errors import DsrunError, UsageError
from dsrun.study.replay import Histogram, Record, Scalars
from dsrun.study.tensorboard import TensorBoardRun, require_tensorboardx

MLFLOW_BATCH = 1000  # metrics of a request
MLFLOW_PARAMETERS = 100


class Jsonl:
    """One JSON object a line: step, seconds, and the figures by tag; for what reads such files, and to see what the others get."""

    def __init__(self, name: str, config: Mapping[str, Any], options: argparse.Namespace):
        options.out.mkdir(parents=True, exist_ok=True)
        self.path = options.out / f"{name}.jsonl"
        self.restart()

    def restart(self) -> None:
        self.file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115

    def write(self, record: Record) -> None:
        line: dict[str, Any] = {"step": record.step, "seconds": record.seconds}
        if isinstance(record, Scalars):
            line |= {tag: value if math.isfinite(value) else None for tag, value in record.values.items()}
        elif isinstance(record, Histogram):
            line |= {record.tag: {"exponents": record.exponents.tolist(), "counts": record.counts.tolist()}}
        else:
            line |= {record.tag: record.text}
        self.file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class TensorBoard(TensorBoardRun):
    """As `dsrun study tensorboard` writes it."""

    def __init__(self, name: str, config: Mapping[str, Any], options: argparse.Namespace):
        require_tensorboardx()
        super().__init__(options.out / name, config)


class Wandb:
    """Weights & Biases. Its own steps must grow, and a test result belongs to a step of before, so `step` is a figure like others."""

    def __init__(self, name: str, config: Mapping[str, Any], options: argparse.Namespace):
        self.wandb = installed("wandb", "wandb")
        self.facts = {"project": options.project, "name": name, "config": dict(config), "dir": str(options.out)}
        options.out.mkdir(parents=True, exist_ok=True)
        self.restart()

    def restart(self) -> None:
        if hasattr(self, "run"):
            self.run.finish()  # what it was told stays there, as a run of its own
        mode = os.environ.get("WANDB_MODE", "offline")
        self.run = self.wandb.init(**self.facts, mode=mode, reinit="create_new")
        self.run.define_metric("*", step_metric="step")

    def write(self, record: Record) -> None:
        where = {"step": record.step, "seconds": record.seconds}
        if isinstance(record, Scalars):
            self.run.log(where | record.values)
        elif isinstance(record, Histogram):
            edges = [*record.exponents.tolist(), int(record.exponents[-1]) + 1]
            self.run.log(where | {record.tag: self.wandb.Histogram(np_histogram=(record.counts.tolist(), edges))})

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    """MLflow. Timestamps are training time in milliseconds."""

    def __init__(self, name: str, config: Mapping[str, Any], options: argparse.Namespace):
        mlflow = installed("mlflow", "mlflow")
        self.entities, self.name, self.config = mlflow.entities, name, config
        options.out.mkdir(parents=True, exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(options.out / 'mlflow.db').resolve()}"
        try:
            self.client = mlflow.MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(options.project)
        except mlflow.exceptions.MlflowException as error:  # mlflow-skinny lacks what a database needs
            raise UsageError(
                f"MLflow cannot use {uri}: {error} With mlflow-skinny: pip install sqlalchemy alembic."
            ) from error
        self.experiment = found.experiment_id if found else self.client.create_experiment(options.project)
        self.run_id = ""
        self.restart()

    def restart(self) -> None:
        if self.run_id:
            self.client.delete_run(self.run_id)
        self.run_id = self.client.create_run(self.experiment, run_name=self.name).info.run_id
        self.metrics: list[Any] = []
        known = [(key, str(value)[:500]) for key, value in self.config.items() if value is not None]
        for start in range(0, len(known), MLFLOW_PARAMETERS):
            params = [self.entities.Param(*pair) for pair in known[start : start + MLFLOW_PARAMETERS]]
            self.client.log_batch(self.run_id, params=params)

    def write(self, record: Record) -> None:
        if isinstance(record, Scalars):
            time = round(1000 * record.seconds)
            for tag, value in record.values.items():
                self.metrics.append(self.entities.Metric(tag, value, time, record.step))

    def flush(self) -> None:
        for start in range(0, len(self.metrics), MLFLOW_BATCH):
            self.client.log_batch(self.run_id, metrics=self.metrics[start : start + MLFLOW_BATCH])
        self.metrics = []

    def close(self) -> None:
        self.flush()
        self.client.set_terminated(self.run_id)


class Trackio:
    """Trackio, a local dashboard with wandb's calls."""

    def __init__(self, name: str, config: Mapping[str, Any], options: argparse.Namespace):
        self.trackio = installed("trackio", "trackio")
        self.facts = {"project": options.project, "name": name, "config": dict(config), "embed": False}
        self.restart()

    def restart(self) -> None:
        if hasattr(self, "run"):
            self.run.finish()
        self.run = self.trackio.init(**self.facts)

    def write(self, record: Record) -> None:
        if isinstance(record, Scalars):
            self.run.log({"seconds": record.seconds} | record.values, step=record.step)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.run.finish()


ADAPTERS: dict[str, Any] = {
    "tensorboard": TensorBoard,
    "jsonl": Jsonl,
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}


def installed(module: str, package: str) -> Any:
    """A tracker's module. Raises UsageError, which says what to install, where there is none."""
    try:
        return __import__(module)
    except ImportError as error:
        raise UsageError(f"--to {module} needs the package {package}: pip install {package} ({error}).") from error


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of run folders")
    parser.add_argument("--to", required=True, choices=ADAPTERS)
    parser.add_argument("--out", type=Path, default=Path("tracker"), help="where files go; default %(default)s")
    parser.add_argument("--project", default="dsrun", help="name there; default %(default)s")
    parser.add_argument("--histograms", choices=("kinds", "tensors", "none"), default="kinds")
    parser.add_argument("--follow", action="store_true", help="go on until all runs have ended")
    options = parser.parse_args()
    adapter = ADAPTERS[options.to]
    counts = replay(
        options.runs,
        lambda name, config: adapter(name, config, options),
        options.histograms,
        output=options.out,
        follow=options.follow,
    )
    for name, count in counts.items():
        print(f"{name}  {count} records")


if __name__ == "__main__":
    try:
        main()
    except DsrunError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
