"""Record: what a run leaves on disk, and what its bits depend on besides its config.

Files are the only truth: a report reads nothing else, and can be remade for any old run. No JAX at import.
"""
