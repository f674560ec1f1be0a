"""Connectionist temporal classification: labels for frames when nobody said which frame belongs to which label.

Conventions: blank is class 0; arrays are batch first; lengths are integers, one an utterance; natural logarithm.
`ctc_loss` is float32 whatever the network's formats are: probabilities are tiny, and this room keeps their integer
exponents apart (`cells`). `log_space_ctc_loss` is what that saves from: plain log space with every result rounded to a
format, for the role `ctc`. Loss, greedy search, forced alignment and the feasibility rule; prefix beam search (`beam`),
with an n-gram language model (`ngram`, `arpa`) and a `lexicon` where they are given. Label ids are not checked: whoever
reads the text does that (`speech`).
"""

from dsrun.ctc.alignment import BLANK, frames_needed
from dsrun.ctc.arpa import read_arpa
from dsrun.ctc.beam import Hypothesis, beam_search, log_softmax
from dsrun.ctc.choice import auto_kernel, describe_auto_ctc, describe_ctc, policy_ctc_loss
from dsrun.ctc.forced import Alignment, Span, best_alignment
from dsrun.ctc.greedy import GreedyStream, greedy_search
from dsrun.ctc.lexicon import Lexicon, read_lexicon
from dsrun.ctc.log_space import log_space_ctc_loss
from dsrun.ctc.loss import ctc_loss
from dsrun.ctc.mosaic import CtcKernel
from dsrun.ctc.ngram import NgramModel

__all__ = [
    "BLANK",
    "Alignment",
    "CtcKernel",
    "GreedyStream",
    "Hypothesis",
    "Lexicon",
    "NgramModel",
    "Span",
    "auto_kernel",
    "beam_search",
    "best_alignment",
    "ctc_loss",
    "describe_auto_ctc",
    "describe_ctc",
    "frames_needed",
    "greedy_search",
    "log_softmax",
    "log_space_ctc_loss",
    "policy_ctc_loss",
    "read_arpa",
    "read_lexicon",
]
