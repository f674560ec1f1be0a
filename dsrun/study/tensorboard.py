"""Runs as TensorBoard's event files, by tensorboardX (the extra `tensorboard`), which needs no TensorFlow.

A run becomes a folder of its own with one event file. Its times are training times (`replay.py`), so TensorBoard's axis "Relative" is
right and "Wall" begins in 1970. A folder that is written again has its old event files replaced, but only those that dsrun wrote
(their names end in `.dsrun`). Where a run that is followed resumes and cuts its records back, its file is written anew, and begins
with the mark by which a TensorBoard that has it open drops what it had read.

A scalar is a float32 in such a file; the figures themselves are in events.jsonl. Histograms are over log2 of the magnitude: a bucket is a
binade, its count exact, and what lies between TensorBoard's own buckets is its interpolation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsrun.errors import UsageError
from dsrun.study.replay import Histogram, Record, Scalars

SUFFIX = ".dsrun"
METRICS = ("dev/cer", "dev/wer", "test/cer", "test/wer")


def require_tensorboardx() -> None:
    """Raises UsageError where the package that writes event files is not installed."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "TensorBoard's event files need the package tensorboardX: pip install 'dsrun[tensorboard]'. `dsrun watch` and `dsrun report` "
            "show a run without it."
        ) from error


class TensorBoardRun:
    """Writes one run.

    Args:
        folder: of this run; made if missing. Event files of an earlier writing are removed.
        config: by dotted key, shown as hyperparameters.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        self.folder, self.config = folder, config
        self._writings = 0
        self._open()

    def restart(self) -> None:
        """What was written is void: begin another file."""
        self._writer.close()
        self._open()

    def write(self, record: Record) -> None:
        """One record."""
        where = {"global_step": record.step, "walltime": record.seconds}
        if isinstance(record, Scalars):
            for tag, value in record.values.items():
                self._writer.add_scalar(tag, value, **where)
        elif isinstance(record, Histogram):
            self._writer.add_histogram_raw(record.tag, **_histogram(record), **where)
        else:
            self._writer.add_text(record.tag, record.text, **where)

    def flush(self) -> None:
        """So that a reader sees what was written."""
        self._writer.flush()

    def close(self) -> None:
        """The end of the file."""
        self._writer.close()

    def _open(self) -> None:
        from tensorboardX import SummaryWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob(f"events.out.tfevents.*{SUFFIX}"):
            old.unlink()
        # The name has the second at which it was made; a second file of the same second would replace the first.
        suffix = f".{self._writings}{SUFFIX}"
        restarted = {"purge_step": 0} if self._writings else {}
        self._writer = SummaryWriter(str(self.folder), filename_suffix=suffix, **restarted)
        self._writings += 1
        self._hyperparameters()

    def _hyperparameters(self) -> None:
        from tensorboardX.summary import hparams

        values = {key: _plain(value) for key, value in self.config.items() if value is not None}
        for part in hparams(values, dict.fromkeys(METRICS, 0.0)):
            self._writer.file_writer.add_summary(part, 0, 0.0)


def _plain(value: Any) -> Any:
    """A value that the hyperparameters have a type for."""
    return value if isinstance(value, str | bool | int | float) else str(value)


def _histogram(record: Histogram) -> dict[str, Any]:
    """Counts by binade as the fields of an event file; sums as if all values lay in the middle of their binade."""
    middles = record.exponents + 0.5
    return {
        "min": float(record.exponents[0]),
        "max": float(record.exponents[-1] + 1),
        "num": int(record.counts.sum()),
        "sum": float(np.dot(middles, record.counts)),
        "sum_squares": float(np.dot(middles**2, record.counts)),
        # A bucket reaches up to its limit, the first from minus infinity: so an empty one stands before it.
        "bucket_limits": [float(record.exponents[0]), *(record.exponents + 1).astype(float).tolist()],
        "bucket_counts": [0, *record.counts.tolist()],
    }
