"""Prefix beam search: the most probable text, not the text of the most probable path.

    score(text) = ln p_ctc(text) + lm_weight * ln p_lm(text) + word_bonus * number of words

p_ctc(text) is the sum over all paths that read as the text: repeats merge, blanks go, and, since a text is what `Alphabet.decode`
writes, spaces at its ends go and a run of spaces is one. Where no path writes two spaces in a row that is exp(-ctc_loss). Frame by
frame a beam of prefixes is kept with two log-probabilities each, of the paths that end in blank and of those that do not, because a
label after itself begins anew only behind a blank (Hannun et al. 2014, First-Pass Large Vocabulary Continuous Speech Recognition using
Bi-Directional Recurrent DNNs; word scores as in Deep Speech 2). With a beam as wide as there are prefixes the result is exact.

Words end at a space and at the end of the utterance, where the language model scores them; `</s>` is scored once, at the end. What is
certain before is counted before: the bonus of a word that has begun, and the score of one that no listed word begins like any more.
That changes which prefixes survive and no text's score; without it misspellings look as good as words until their space comes, and
fill the beam. An alphabet without a space is taken as one whose every symbol is a word (Mandarin); the language model is then one of
characters. A word that the model does not list is its `<unk>`: any text can be found, unless a lexicon says which words there are.

All in float64 and natural logarithms. Of equal scores the text whose class ids come first wins; in the beam, the prefix that was there
before. An utterance's result does not depend on the batch that it is in.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from dsrun.ctc.alignment import BLANK
from dsrun.ctc.lexicon import SPACE, Lexicon
from dsrun.speech import Alphabet

# Frames. At 16 a search takes half as long again, since prefixes that come back are made anew, and little less memory.
FORGET_EVERY = 64


@runtime_checkable  # the tests check annotations by isinstance
class LanguageModel(Protocol):
    """What the search asks of a language model; `NgramModel` is one. Natural logarithms, never above 0; any hashable state."""

    @property
    def start(self) -> Any:
        """State before the first word."""
        ...

    def score(self, state: Any, word: str) -> tuple[float, Any]:
        """Log-probability of a word, and the state after it."""
        ...

    def end(self, state: Any) -> float:
        """Log-probability that the sentence ends."""
        ...

    def begins_word(self, text: str) -> bool:
        """Whether a listed word begins so. All words that are not listed have one score, and leave the same state."""
        ...


@dataclass(frozen=True)
class Hypothesis:
    """A text that the search found, and why; natural logarithms."""

    text: str
    labels: tuple[int, ...]  # class ids of the text
    score: float
    log_prob: float  # of the paths found in the beam; of all that there are, if the beam was wide enough
    lm_log_prob: float  # 0 without a language model
    num_words: int


def beam_search(
    log_probs: Float[np.ndarray, "batch output_frame class"],
    num_frames: Int[np.ndarray, " batch"],
    *,
    alphabet: Alphabet,
    beam_width: int,
    lm: LanguageModel | None = None,
    lm_weight: float = 0.0,
    word_bonus: float = 0.0,
    lexicon: Lexicon | None = None,
) -> list[list[Hypothesis]]:
    """The best texts of each utterance.

    Args:
        log_probs: natural log of each frame's class probabilities; NaN counts as probability 0.
        num_frames: valid output frames; what lies behind them has no effect.
        beam_width: prefixes kept after each frame, 1 or more.
        lm_weight: of the language model, 0 or more; 0 is the same as no language model.
        word_bonus: added for each word; a language model alone favours few words.
        lexicon: only texts of its words are found. Where no prefix in the beam has ended its last word, it stays unfinished.

    Returns:
        Hypotheses, best first, at most `beam_width`; where all paths have probability 0, one empty text with score minus infinity.
    """
    if beam_width < 1 or not lm_weight >= 0:
        raise ValueError(f"beam_width {beam_width} must be at least 1, lm_weight {lm_weight} at least 0.")
    fusion = _Fusion(alphabet, lm if lm_weight else None, lm_weight, word_bonus, lexicon)
    return [
        _Search(fusion, beam_width).run(np.asarray(frames[:count], np.float64))
        for frames, count in zip(log_probs, num_frames, strict=True)
    ]


@dataclass(frozen=True)
class _Fusion:
    """What is added to the network's score, and which words may be written."""

    alphabet: Alphabet
    lm: LanguageModel | None
    lm_weight: float
    word_bonus: float
    lexicon: Lexicon | None

    @property
    def space(self) -> int | None:
        """Class of the space, if the alphabet has one."""
        return self.alphabet.symbols.index(SPACE) + 1 if SPACE in self.alphabet.symbols else None


class _Prefix:
    """A prefix of a text, and what is known of it once and for all: its words' scores do not depend on the frame."""

    __slots__ = ("children", "foreseen", "label", "lm_log_prob", "num_words", "parent", "spelled", "state", "word")

    def __init__(self, parent: "_Prefix | None", label: int):
        self.parent = parent
        self.label = label  # class id of its last symbol
        self.children: dict[int, _Prefix] = {}
        self.word = ""  # begun and not ended
        self.lm_log_prob = 0.0  # of the words that have ended
        self.foreseen: float | None = None  # of `word`, once it cannot become a listed one any more
        self.num_words = 0  # with the one that has begun
        self.state: Any = None
        self.spelled = 0  # the lexicon's node of `word`

    def labels(self) -> tuple[int, ...]:
        """Class ids from the first symbol on."""
        found: list[int] = []
        prefix = self
        while prefix.parent is not None:
            found.append(prefix.label)
            prefix = prefix.parent
        return tuple(reversed(found))


class _Search:
    """One utterance's search."""

    def __init__(self, fusion: _Fusion, beam_width: int):
        self._fusion = fusion
        self._width = beam_width
        self._space = fusion.space
        self._unlisted: dict[Any, float] = {}  # log-probability of a word that is not listed, by state
        # Paths begin as behind a space: leading ones add nothing.
        root = _Prefix(None, BLANK if self._space is None else self._space)
        root.state = fusion.lm.start if fusion.lm else None
        self._beam = [root]
        self._blank = np.zeros(1)  # ln p of the paths that end in blank, by prefix
        self._label = np.full(1, -np.inf)  # ... and of those that end in the prefix's last symbol
        self._added = np.zeros(1)  # the prefix's language model score and word bonuses

    def run(self, frames: Float[np.ndarray, "output_frame class"]) -> list[Hypothesis]:
        for number, frame in enumerate(np.where(np.isnan(frames), -np.inf, frames), start=1):
            self._step(frame)
            if number % FORGET_EVERY == 0:
                self._forget()
        return self._hypotheses()

    def _step(self, frame: Float[np.ndarray, " class"]) -> None:
        both = np.logaddexp(self._blank, self._label)
        last = np.array([prefix.label for prefix in self._beam])
        is_space = last == self._space if self._space is not None else np.zeros(len(last), bool)
        # A prefix stays itself with a blank, or with its last label again; a space behind a space is no new one even behind a blank.
        blank = both + frame[BLANK]
        label = np.where(last == BLANK, -np.inf, np.where(is_space, both, self._label) + frame[last])

        classes = np.delete(np.arange(len(frame)), BLANK)
        longer = both[:, None] + frame[None, classes]
        column = np.full(len(frame), -1)
        column[classes] = np.arange(len(classes))
        own = np.flatnonzero((column[last] >= 0) & (last != BLANK))
        longer[own, column[last[own]]] = np.where(is_space[own], -np.inf, self._blank[own] + frame[last[own]])
        self._forbid_other_words(longer, classes)
        # Where prefix and longer prefix are both in the beam, the way from one to the other is no new prefix.
        place = {id(prefix): row for row, prefix in enumerate(self._beam)}
        for row, prefix in enumerate(self._beam):
            shorter = place.get(id(prefix.parent))
            if shorter is not None and column[prefix.label] >= 0:
                cell = shorter, column[prefix.label]
                label[row] = np.logaddexp(label[row], longer[cell])
                longer[cell] = -np.inf

        self._keep_best(blank, label, *self._candidates(longer, classes, np.logaddexp(blank, label) + self._added))

    def _forget(self) -> None:
        """Let go of prefixes that neither are in the beam nor begin one that is; one that comes back is made anew, the same.

        Otherwise all that were ever looked at stay: a gigabyte for 20 s and a beam of 4,096.
        """
        needed: dict[int, _Prefix] = {}
        for last in self._beam:
            way: _Prefix | None = last
            while way is not None and id(way) not in needed:
                needed[id(way)] = way
                way = way.parent
        for prefix in needed.values():
            prefix.children = {label: child for label, child in prefix.children.items() if id(child) in needed}

    def _forbid_other_words(self, longer: np.ndarray, classes: np.ndarray) -> None:
        if lexicon := self._fusion.lexicon:
            allowed = np.stack([lexicon.allowed(prefix.spelled) for prefix in self._beam])
            longer[~allowed[:, classes]] = -np.inf

    def _candidates(
        self, longer: np.ndarray, classes: np.ndarray, stay: np.ndarray
    ) -> tuple[list["_Prefix"], Any, Any]:
        """Longer prefixes that may be among the best, their log-probabilities and what is added to them.

        The language model is asked only about words that could enter the beam if it gave them probability 1.
        """
        begins = np.array([not prefix.word for prefix in self._beam])
        optimistic = (
            longer + self._added[:, None] + self._fusion.word_bonus * (begins[:, None] & (classes != self._space))
        )
        scores = np.where(longer > -np.inf, optimistic, -np.inf).ravel()
        chosen = np.flatnonzero((scores >= _edge(stay, self._width)) & (scores > -np.inf))
        if len(chosen) > self._width:
            likely = chosen[_best(scores[chosen], self._width)]
            needed = _edge(np.concatenate([stay, self._actual(likely, longer, classes)]), self._width)
            chosen = chosen[scores[chosen] >= needed]
        rows, columns = np.divmod(chosen, max(len(classes), 1))
        prefixes = self._all_extended(rows, classes[columns])
        return prefixes, longer[rows, columns], np.array([self._score_added(prefix) for prefix in prefixes])

    def _actual(self, places: np.ndarray, longer: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Scores of the longer prefixes at these places of the flattened array."""
        rows, columns = np.divmod(places, max(len(classes), 1))
        added = [self._score_added(prefix) for prefix in self._all_extended(rows, classes[columns])]
        return longer[rows, columns] + np.array(added)

    def _all_extended(self, rows: np.ndarray, labels: np.ndarray) -> list["_Prefix"]:
        return [
            self._extended(self._beam[row], label) for row, label in zip(rows.tolist(), labels.tolist(), strict=True)
        ]

    def _keep_best(
        self, blank: np.ndarray, label: np.ndarray, prefixes: list["_Prefix"], new: np.ndarray, added: np.ndarray
    ) -> None:
        beam = self._beam + prefixes
        blank = np.concatenate([blank, np.full(len(prefixes), -np.inf)])
        label = np.concatenate([label, new])
        added = np.concatenate([self._added, added])
        score = np.logaddexp(blank, label) + added
        kept = _best(score, self._width)
        if not len(kept):  # nothing has a probability: go on with anything, to say so at the end
            kept = np.zeros(1, np.int64)
        self._beam = [beam[k] for k in kept.tolist()]
        self._blank, self._label, self._added = blank[kept], label[kept], added[kept]

    def _extended(self, prefix: _Prefix, label: int) -> _Prefix:
        if (found := prefix.children.get(label)) is not None:
            return found
        longer = _Prefix(prefix, label)
        longer.lm_log_prob, longer.state, longer.num_words = prefix.lm_log_prob, prefix.state, prefix.num_words
        if label == self._space:
            self._end_word(longer, prefix.word)
        else:
            self._write(longer, prefix, self._fusion.alphabet.symbols[label - 1])
        prefix.children[label] = longer
        return longer

    def _write(self, longer: _Prefix, prefix: _Prefix, symbol: str) -> None:
        longer.num_words += not prefix.word
        if self._space is None:
            self._end_word(longer, symbol)
            return
        longer.word = prefix.word + symbol
        if self._fusion.lexicon:
            longer.spelled = self._fusion.lexicon.after(prefix.spelled, longer.label)
        lm = self._fusion.lm
        longer.foreseen = prefix.foreseen
        if lm and longer.foreseen is None and not lm.begins_word(longer.word):
            if prefix.state not in self._unlisted:
                self._unlisted[prefix.state] = lm.score(prefix.state, longer.word)[0]
            longer.foreseen = self._unlisted[prefix.state]

    def _end_word(self, prefix: _Prefix, word: str) -> None:
        if self._fusion.lm:
            log_prob, prefix.state = self._fusion.lm.score(prefix.state, word)
            prefix.lm_log_prob += log_prob

    def _score_added(self, prefix: _Prefix, end: float = 0.0) -> float:
        score = self._fusion.word_bonus * prefix.num_words
        if self._fusion.lm:
            score += self._fusion.lm_weight * (prefix.lm_log_prob + (prefix.foreseen or 0.0) + end)
        return score

    def _hypotheses(self) -> list[Hypothesis]:
        log_probs = np.logaddexp(self._blank, self._label).tolist()
        alive = [(prefix, p) for prefix, p in zip(self._beam, log_probs, strict=True) if p > -np.inf]
        if self._fusion.lexicon:
            ended = [(prefix, p) for prefix, p in alive if self._fusion.lexicon.is_word(prefix.spelled)]
            alive = ended or alive
        # With a space at its end and without it is the same text, of the same words.
        ends = [p.parent if p.label == self._space and p.parent is not None else p for p, _ in alive]
        return best_first([self._hypothesis(end, p) for end, (_, p) in zip(ends, alive, strict=True)])

    def _hypothesis(self, prefix: _Prefix, log_prob: float) -> Hypothesis:
        labels = prefix.labels()
        ended = prefix
        if prefix.word:
            ended = _Prefix(prefix, BLANK)
            ended.lm_log_prob, ended.state, ended.num_words = prefix.lm_log_prob, prefix.state, prefix.num_words
            self._end_word(ended, prefix.word)
        end = self._fusion.lm.end(ended.state) if self._fusion.lm else 0.0
        return Hypothesis(
            text=self._fusion.alphabet.decode(labels),
            labels=labels,
            score=log_prob + self._score_added(ended, end),
            log_prob=log_prob,
            lm_log_prob=ended.lm_log_prob + end,
            num_words=ended.num_words,
        )


def best_first(found: list[Hypothesis]) -> list[Hypothesis]:
    """Each text once, with the probabilities of all its hypotheses added; one empty text with score minus infinity if there is none."""
    texts: dict[tuple[int, ...], Hypothesis] = {}
    for hypothesis in found:
        if (other := texts.get(hypothesis.labels)) is not None:
            log_prob = float(np.logaddexp(other.log_prob, hypothesis.log_prob))
            hypothesis = replace(other, log_prob=log_prob, score=other.score + (log_prob - other.log_prob))
        texts[hypothesis.labels] = hypothesis
    if not texts:
        return [Hypothesis("", (), -np.inf, -np.inf, 0.0, 0)]
    return sorted(texts.values(), key=lambda hypothesis: (-hypothesis.score, hypothesis.labels))


def _edge(scores: Float[np.ndarray, " candidate"], width: int) -> float:
    """The score of the last that a beam keeps; minus infinity while there is room."""
    return float(np.partition(scores, len(scores) - width)[len(scores) - width]) if len(scores) >= width else -np.inf


def _best(scores: Float[np.ndarray, " candidate"], width: int) -> Int[np.ndarray, " kept"]:
    """Places of the best scores in their order of occurrence; of equal ones at the edge the first. Never one of probability 0."""
    alive = np.flatnonzero(scores > -np.inf)
    if len(alive) <= width:
        return alive
    # The edge is a value, which every selection algorithm agrees on; places of equal values are not.
    edge = _edge(scores[alive], width)
    above, at_edge = alive[scores[alive] > edge], alive[scores[alive] == edge]
    return np.sort(np.concatenate([above, at_edge[: width - len(above)]]))


def log_softmax(logits: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Natural log of the class probabilities, float64; the last axis is the classes. A frame without a finite maximum is all NaN."""
    scores = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = scores - scores.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
