"""Record: what a run leaves on disk, and what its bits depend on besides its config.

Files are the only truth: a report reads nothing else, and can be remade for any old run. (`config.yaml`, `provenance.json`) says
whether two runs ought to be bit-equal; `events.jsonl` says whether they are. What a file holds is replaced atomically or
appended a whole line at a time, so a kill never leaves half of one. Checkpoints are written by `training`; importing this room
does not import JAX.
"""

from dsrun.record.durable import LineFile, cannot_write, sync, sync_tree, write_atomically
from dsrun.record.events import EventLog, read_events
from dsrun.record.provenance import provenance
from dsrun.record.run_dir import RunDir
from dsrun.record.runtime import configure_runtime, in_force, require_in_force

__all__ = [
    "EventLog",
    "LineFile",
    "RunDir",
    "cannot_write",
    "configure_runtime",
    "in_force",
    "provenance",
    "read_events",
    "require_in_force",
    "sync",
    "sync_tree",
    "write_atomically",
]
