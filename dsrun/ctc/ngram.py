"""N-gram language model with backoff: how probable is a word after those before it.

    p(w | h) = the model's own p(w | h)            where it lists the n-gram h w
             = backoff(h) * p(w | h without its first word)   elsewhere (backoff 1 where h is not listed)

A sentence begins in the state after `<s>` and ends with `</s>`. A word that the model does not list counts as `<unk>`, in what is
predicted and in the history; a model without `<unk>` gives it 10**-100, as KenLM does. Probabilities come out as natural logarithms;
inside they are the file's log10, in float64. None is above 1, whatever a file's backoff weights say.

An n-gram is kept as one integer, its context's place among the shorter n-grams times the size of the vocabulary plus its last word, in
a sorted array that is searched by bisection: 24 bytes an n-gram, whatever its order, and nothing to unpack. `arpa.py` reads the file.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
LN10 = math.log(10.0)
LOG10_OF_UNLISTED = -100.0  # KenLM's for a model without <unk>

# By length k = 1, 2, ...: where the last k words stand among the k-grams, or ABSENT.
State = tuple[int, ...]
ABSENT = -1


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order, sorted by key; log10 probabilities and log10 backoff weights in the same order."""

    keys: array  # "q": context * vocabulary size + word
    log10_probs: array  # "d"
    log10_backoffs: array  # "d"; none for the highest order

    def find(self, key: int) -> int:
        """Place of a key, or ABSENT."""
        index = bisect_left(self.keys, key)
        return index if index < len(self.keys) and self.keys[index] == key else ABSENT


@dataclass(frozen=True)
class SentenceScore:
    """Natural log-probability of a sentence, `</s>` included; that of its listed words and `</s>` alone; how many words are not listed."""

    log_prob: float
    log_prob_listed: float
    num_unlisted: int


class NgramModel:
    """A language model of words; immutable."""

    def __init__(self, words: Mapping[str, int], grams: Sequence[Grams]):
        """Words by id, 0, 1, ... without a gap, and the n-grams of order 1, 2, ...; `arpa.read_arpa` makes them."""
        self._ids = dict(words)
        self._grams = tuple(grams)
        self._sorted = sorted(self._ids)
        self.order = len(self._grams)
        self.lists_unknown = UNKNOWN in self._ids
        self._num_words = len(self._ids)
        self._unknown = self._ids.get(UNKNOWN, ABSENT)
        self.start: State = (self._ids[BEGIN],) if self.order > 1 else ()

    @property
    def vocabulary(self) -> list[str]:
        """The words that it lists, without `<s>`, `</s>` and `<unk>`, in the file's order."""
        return [word for word in self._ids if word not in (BEGIN, END, UNKNOWN)]

    @property
    def counts(self) -> list[int]:
        """Number of n-grams by order."""
        return [len(grams.log10_probs) for grams in self._grams]

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def begins_word(self, text: str) -> bool:
        """Whether a listed word begins so."""
        index = bisect_left(self._sorted, text)
        return index < len(self._sorted) and self._sorted[index].startswith(text)

    def score(self, state: State, word: str) -> tuple[float, State]:
        """Natural log-probability of a word after a state, and the state after it."""
        log10_prob, after = self._score(state, self._ids.get(word, self._unknown))
        return log10_prob * LN10, after

    def end(self, state: State) -> float:
        """Natural log-probability that the sentence ends here."""
        return self._score(state, self._ids[END])[0] * LN10

    def score_sentence(self, words: Iterable[str]) -> SentenceScore:
        """Score a whole sentence."""
        state, total, listed, unlisted = self.start, 0.0, 0.0, 0
        for word in words:
            log_prob, state = self.score(state, word)
            total += log_prob
            if word in self._ids and word != UNKNOWN:
                listed += log_prob
            else:
                unlisted += 1
        end = self.end(state)
        return SentenceScore(total + end, listed + end, unlisted)

    def _score(self, state: State, word: int) -> tuple[float, State]:
        found = [word, *(self._find(k, context, word) for k, context in enumerate(state, start=2))]
        length = max(k for k, index in enumerate(found, start=1) if index != ABSENT or k == 1)
        log10_prob = LOG10_OF_UNLISTED if word == ABSENT else self._grams[length - 1].log10_probs[found[length - 1]]
        for k in range(length, len(state) + 1):  # contexts of k words, after each of which the word is not listed
            if state[k - 1] != ABSENT:
                log10_prob += self._grams[k - 1].log10_backoffs[state[k - 1]]
        log10_prob = min(log10_prob, 0.0)  # a backoff weight above 1 may lift it; the search relies on at most 1
        after = found[: self.order - 1]
        while after and after[-1] == ABSENT:
            after.pop()
        return log10_prob, tuple(after)

    def _find(self, order: int, context: int, word: int) -> int:
        """Where context and word stand among the n-grams of an order, or ABSENT."""
        if context == ABSENT or word == ABSENT:
            return ABSENT
        return self._grams[order - 1].find(context * self._num_words + word)
