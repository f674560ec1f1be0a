"""Beam search by listing every path, slow and obvious: no prefix, no beam, no recursion over frames.

Every path of classes^frames is read as a text (repeats merged, blanks removed, runs of spaces made one, spaces at the ends dropped), the
probabilities of equal texts are summed, and each text is scored by its words. Blank is class 0; one utterance at a time.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np


def text_probabilities(log_probs: np.ndarray, symbols: str) -> dict[str, float]:
    """Probability of every text that some path reads as; log_probs [frame, class]."""
    found = defaultdict(list)
    for path in itertools.product(range(log_probs.shape[1]), repeat=log_probs.shape[0]):
        text = "".join(symbols[c - 1] for c, _ in itertools.groupby(path) if c != 0)
        found[" ".join(text.split())].append(math.prod(math.exp(log_probs[t, c]) for t, c in enumerate(path)))
    return {text: math.fsum(terms) for text, terms in found.items()}


def ranked_texts(
    log_probs: np.ndarray,
    symbols: str,
    *,
    sentence_log_prob: Callable[[list[str]], float] = lambda words: 0.0,
    lm_weight: float = 0.0,
    word_bonus: float = 0.0,
) -> list[tuple[float, str]]:
    """(score, text), best first; the score of texts with probability 0 is left out."""
    scored = []
    for text, probability in text_probabilities(log_probs, symbols).items():
        words = text.split() if " " in symbols else list(text)
        if probability > 0:
            score = math.log(probability) + lm_weight * sentence_log_prob(words) + word_bonus * len(words)
            scored.append((score, text))
    return sorted(scored, reverse=True)
