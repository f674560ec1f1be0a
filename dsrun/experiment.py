"""What the commands do: a config becomes a run folder, a run folder becomes results.

On the roof beside `cli.py` (which only reads options and prints) so that tests and notebooks can call the same functions.
A run folder is enough to evaluate and transcribe: `config.yaml` rebuilds the network, the checkpoint brings weights,
statistics, alphabet and feature normalisation, so the training audio is not needed again.
"""
