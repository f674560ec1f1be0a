"""Which decoder the command line asks for, and what the run's tuning remembers.

On the roof. `dsrun eval --tune-lm` leaves RUN/evaluation/lm.json: the language model by path and sha256, and the weights that were best
on the dev set. Beam search takes what the command line does not say from there, and says so (--lm-weight 0 is beam search alone);
weights that were tuned for other bytes are not used. Without tuning a language model gets the weights below, which are a start and
nobody's measurement.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dsrun.ctc import Lexicon, NgramModel, read_arpa, read_lexicon
from dsrun.ctc.flashlight import FlashlightSearch, is_flashlight_installed
from dsrun.decoding_options import BACKENDS, DecodingOptions, as_options
from dsrun.errors import DataError, UsageError
from dsrun.evaluation.decoders import BeamDecoder, Decoder, GreedyDecoder, PrefixSearch, Search
from dsrun.record import RunDir
from dsrun.speech import Alphabet, audio_digest

BEAM_WIDTH = 64
LM_WEIGHT = 1.0
WORD_BONUS = 1.0
TUNED = "lm.json"


@dataclass(frozen=True)
class Tuned:
    """What `--tune-lm` found best; the paths are absolute."""

    lm: str
    lm_sha256: str
    lexicon: str | None
    beam_width: int
    beam_backend: str
    lm_weight: float
    word_bonus: float


def make_decoder(options: DecodingOptions, *, alphabet: Alphabet, run: RunDir) -> Decoder:
    """The decoder asked for, with what the run's tuning remembers.

    Raises:
        UsageError: options that mean nothing together, or a backend that is not installed or cannot do it.
        DataError: language model, lexicon or lm.json cannot be used.
    """
    options.check()
    if options.decoder == "greedy":
        return GreedyDecoder(alphabet)
    tuned = read_tuned(run)
    if tuned and options.lm is None and options.lexicon is None and options.lm_weight != 0:
        options = _from_tuning(options, tuned, run)
    elif options.lm is None and options.lm_weight:
        raise UsageError("--lm-weight weighs a language model: add --lm FILE.arpa.")
    lm_sha256 = None if options.lm is None else audio_digest(options.lm)
    if options.lm is not None and options.lm_weight is None and options.word_bonus is None:
        options = _weighted(options, tuned, lm_sha256)
    lm_weight = options.lm_weight if options.lm_weight is not None else LM_WEIGHT if options.lm else 0.0
    word_bonus = options.word_bonus if options.word_bonus is not None else WORD_BONUS if options.lm else 0.0
    beam_width, backend = options.beam_width or BEAM_WIDTH, choose_backend(options)
    search = make_search(options, alphabet=alphabet, lm_weight=lm_weight, word_bonus=word_bonus)
    settings = {
        "backend": backend,
        "beam_width": beam_width,
        "lm": None if options.lm is None else str(options.lm),
        "lm_sha256": lm_sha256,
        "lm_weight": lm_weight,
        "word_bonus": word_bonus,
        "lexicon": None if options.lexicon is None else str(options.lexicon),
        "lexicon_sha256": None if options.lexicon is None else audio_digest(options.lexicon),
    }
    return BeamDecoder(search, settings)


def make_search(options: DecodingOptions, *, alphabet: Alphabet, lm_weight: float, word_bonus: float) -> Search:
    """The search of a beam decoder; files are read and checked here."""
    lm: NgramModel | None = None
    if options.lm is not None:
        lm = read_arpa(options.lm)
        _require_words_in_common(lm, options.lm, alphabet)
    lexicon: Lexicon | None = None
    if options.lexicon is not None:
        lexicon = read_lexicon(options.lexicon, alphabet)
        if lexicon.num_left_out:
            _say(f"{options.lexicon}: {lexicon.num_left_out} words left out, which the alphabet cannot write")
    beam_width = options.beam_width or BEAM_WIDTH
    weights: dict[str, Any] = {"lm_weight": lm_weight, "word_bonus": word_bonus, "lexicon": lexicon}
    if choose_backend(options) == "flashlight":
        return FlashlightSearch(alphabet=alphabet, beam_width=beam_width, lm=options.lm, **weights)
    return PrefixSearch(alphabet=alphabet, beam_width=beam_width, lm=lm, **weights)


def _require_words_in_common(lm: NgramModel, path: Path, alphabet: Alphabet) -> None:
    """Say how many of a model's words the alphabet cannot write; raises DataError if that is all.

    The trap is case: models of LibriSpeech's text are upper case, and to a network of lower-case letters all of it is `<unk>`.
    """
    symbols = set(alphabet.symbols)
    words = lm.vocabulary
    foreign = [word for word in words if not symbols.issuperset(word)]
    if words and len(foreign) == len(words):
        raise DataError(
            f"{path}: the run's alphabet can write none of its {len(words)} words, e.g. {foreign[0]!r}. Train it on text in the form that "
            "the network writes (`dsrun lm train --normalizer`), of characters if the alphabet has no space (--characters)."
        )
    if foreign:
        _say(f"{path}: the alphabet cannot write {len(foreign)} of its {len(words)} words, e.g. {foreign[0]!r}")


def choose_backend(options: DecodingOptions) -> str:
    """`own` unless another is asked for, so that results do not depend on what is installed; `auto` is the faster one where both do the
    same: flashlight with a lexicon, where it is installed."""
    if options.beam_backend == "auto":
        return "flashlight" if options.lexicon is not None and is_flashlight_installed() else "own"
    return options.beam_backend or "own"


def read_tuned(run: RunDir) -> Tuned | None:
    """RUN/evaluation/lm.json, if it is there.

    Raises:
        DataError: it is there and is not what `--tune-lm` writes.
    """
    path = run.evaluation / TUNED
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["best"]
        tuned = Tuned(**{name: found[name] for name in Tuned.__dataclass_fields__})
        numbers = (tuned.lm_weight, tuned.word_bonus)
        is_ours = (
            isinstance(tuned.lm, str)
            and isinstance(tuned.lexicon, str | None)
            and type(tuned.beam_width) is int
            and tuned.beam_width > 0
            and tuned.beam_backend in BACKENDS
            and all(type(number) in (int, float) and abs(number) < 1e6 for number in numbers)
            and tuned.lm_weight >= 0
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise DataError(f"{path}: not what `dsrun eval {run.path} --tune-lm` writes. Delete it, or tune again.")
    return tuned


def _from_tuning(options: DecodingOptions, tuned: Tuned, run: RunDir) -> DecodingOptions:
    lm = Path(tuned.lm)
    if not lm.is_file() or audio_digest(lm) != tuned.lm_sha256:
        raise DataError(
            f"{run.evaluation / TUNED}: was tuned with {lm}, which is {'not what it was' if lm.is_file() else 'not there any more'}. "
            f"Tune again (`dsrun eval {run.path} --tune-lm --lm FILE.arpa`), or name a language model and weights."
        )
    merged = DecodingOptions(
        decoder="beam",
        beam_width=options.beam_width or tuned.beam_width,
        lm=lm,
        lm_weight=tuned.lm_weight if options.lm_weight is None else options.lm_weight,
        word_bonus=tuned.word_bonus if options.word_bonus is None else options.word_bonus,
        lexicon=None if tuned.lexicon is None else Path(tuned.lexicon),
        beam_backend=options.beam_backend or tuned.beam_backend,
    )
    _say(f"from {run.evaluation / TUNED}: {as_options(merged)}")
    return merged


def _weighted(options: DecodingOptions, tuned: Tuned | None, lm_sha256: str | None) -> DecodingOptions:
    """Weights for a language model that came without."""
    if tuned and tuned.lm_sha256 == lm_sha256:
        lm_weight, word_bonus, why = tuned.lm_weight, tuned.word_bonus, "tuned with this language model"
    else:
        lm_weight, word_bonus, why = (
            LM_WEIGHT,
            WORD_BONUS,
            "not tuned: `dsrun eval RUN --tune-lm --lm FILE.arpa` does it",
        )
    _say(f"--lm-weight {lm_weight:g} --word-bonus {word_bonus:g} ({why})")
    return replace(options, lm_weight=lm_weight, word_bonus=word_bonus)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
