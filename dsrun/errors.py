"""What a user can get wrong, by exit code.

Every error names the place, the value, the reason and the way out. The command line prints the text alone, without a
traceback, and ends with the class's `exit_code`; anything that is not a `DsrunError` is a bug in dsrun and ends with 1.

| code | meaning |
|---|---|
| 0 | done |
| 1 | a bug in dsrun, or a device that computes wrongly; of `dsrun diff` and `dsrun verify`: different bits |
| 2 | bad usage or config |
| 3 | bad data |
| 4 | training diverged |
| 75 | stopped by a signal after writing a checkpoint: the same command goes on |
| 130 | Ctrl-C, during training after writing a checkpoint |
"""

EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130


class DsrunError(ValueError):
    """A mistake that the user can mend; the text says how."""

    exit_code = 1


class UsageError(DsrunError):
    """The command cannot mean what was written: wrong option, finished run folder, missing run."""

    exit_code = 2


class ConfigError(UsageError):
    """The config cannot be used; the text lists every problem with its file, line and column."""


class DataError(DsrunError):
    """Audio, text, manifest or checkpoint cannot be used as it is."""

    exit_code = 3


class CannotWriteError(DataError):
    """A file could not be written: the disk is full, or the place takes none."""


class DivergedError(DsrunError):
    """Training produced numbers that are not finite."""

    exit_code = 4


class DevicesDisagreeError(DsrunError):
    """Copies of one state differ from device to device: hardware, or a bug of ours."""
