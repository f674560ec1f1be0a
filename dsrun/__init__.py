"""dsrun: what happens to a speech recogniser when its numbers change format.

The rooms, from the ground up: `arithmetic` (formats and rounding), `speech` (files to arrays), `record` (what a run leaves
on disk); `model` and `ctc`; `training` and `evaluation`; and on the roof `config`, `build` and `cli`. A room imports only
rooms below its floor. Nothing is imported here, so that `dsrun --help` starts without JAX.
"""

__version__ = "0.1.0"
