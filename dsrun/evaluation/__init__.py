"""Evaluation: from weights and a manifest to hypotheses, error rates and intervals.

Rates are of the corpus, never clamped; every utterance's errors are kept, so that two systems can be compared in pairs.
"""

from dsrun.evaluation.error_rate import ErrorCount, bootstrap_interval, character_errors, paired_bootstrap, word_errors

__all__ = ["ErrorCount", "bootstrap_interval", "character_errors", "paired_bootstrap", "word_errors"]
