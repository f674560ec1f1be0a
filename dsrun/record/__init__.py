"""Record: what a run leaves on disk, and what its bits depend on besides its config.

Files are the only truth: a report reads nothing else, and can be remade for any old run. (`config.yaml`, `provenance.json`) says
whether two runs ought to be bit-equal; `events.jsonl` says whether they are. What a file holds is replaced atomically or
appended a whole line at a time, so a kill never leaves half of one. Checkpoints are written by `training`; importing this room
does not import JAX.
"""

from dsrun.record.autotune import autotune_digest, autotune_flags, keep_autotune_results
from dsrun.record.compiled import trusted_folder
from dsrun.record.durable import FULL, LineFile, cannot_write, sync, sync_tree, write_atomically
from dsrun.record.events import EventLog, read_events
from dsrun.record.provenance import differences, provenance, read_provenance
from dsrun.record.run_dir import RunDir
from dsrun.record.runtime import configure_runtime, in_force, require_in_force

__all__ = [
    "FULL",
    "EventLog",
    "LineFile",
    "RunDir",
    "autotune_digest",
    "autotune_flags",
    "cannot_write",
    "configure_runtime",
    "differences",
    "in_force",
    "keep_autotune_results",
    "provenance",
    "read_events",
    "read_provenance",
    "require_in_force",
    "sync",
    "sync_tree",
    "trusted_folder",
    "write_atomically",
]
