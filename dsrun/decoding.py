"""Which decoder the command line asks for, and what the run's tuning remembers.

On the roof. `dsrun eval --tune-lm` leaves RUN/evaluation/lm.json (`tuned.py`): language model and lexicon by path and sha256, and the
weights that were best on the dev set. Beam search with that model takes every option that the command line does not say from there;
`--lexicon none` is without the lexicon, `--lm-weight 0` is beam search alone, without model, bonus and lexicon that are not named. With
another language model nothing is taken, and it gets the weights below, which are a start and nobody's measurement. What came out is
printed, and whether its weights were tuned.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dsrun.ctc import Lexicon, NgramModel, read_arpa, read_lexicon
from dsrun.ctc.flashlight import FlashlightSearch, is_flashlight_installed
from dsrun.decoding_options import DecodingOptions, as_options
from dsrun.errors import DataError, UsageError
from dsrun.evaluation.decoders import BeamDecoder, Decoder, GreedyDecoder, PrefixSearch, Search
from dsrun.speech import Alphabet, file_digest
from dsrun.tuned import TUNED, Folder, Tuned, read_tuned

BEAM_WIDTH = 64
LM_WEIGHT = 1.0
WORD_BONUS = 1.0
NO_LEXICON = Path("none")


@dataclass(frozen=True)
class Resolved:
    """Options with nothing unsaid but files that there are none of; the files' sha256; the tuning, if weights are from it."""

    options: DecodingOptions
    lm_sha256: str | None
    lexicon_sha256: str | None
    tuned: Tuned | None


def make_decoder(options: DecodingOptions, *, alphabet: Alphabet, run: Folder) -> Decoder:
    """The decoder asked for, with what the run's tuning remembers.

    Raises:
        UsageError: options that mean nothing together, or a backend that is not installed or cannot do it.
        DataError: language model, lexicon or lm.json cannot be used.
    """
    options.check()
    if options.decoder == "greedy":
        return GreedyDecoder(alphabet)
    found = resolve(options, run)
    options = found.options
    assert options.lm_weight is not None
    assert options.word_bonus is not None
    search = make_search(options, alphabet=alphabet, lm_weight=options.lm_weight, word_bonus=options.word_bonus)
    settings = {
        "backend": options.beam_backend,
        "beam_width": options.beam_width,
        "lm": None if options.lm is None else str(options.lm),
        "lm_sha256": found.lm_sha256,
        "lm_weight": options.lm_weight,
        "word_bonus": options.word_bonus,
        "lexicon": None if options.lexicon is None else str(options.lexicon),
        "lexicon_sha256": found.lexicon_sha256,
        # Not of the search: what its weights were chosen on, for error rates to say so.
        "tuned_on_sha256": found.tuned.manifest_sha256 if found.tuned else None,
        "tuned_at_step": found.tuned.step if found.tuned else None,
    }
    return BeamDecoder(search, settings)


def resolve(options: DecodingOptions, run: Folder) -> Resolved:
    """What is not said from the run's tuning if it is about the same language model, the rest by default; prints it.

    Raises:
        UsageError: a weight for no language model. DataError: a file is not there, or not what the tuning had.
    """
    tuned = read_tuned(run) if options.lm_weight != 0 else None
    if options.lm is not None and tuned and file_digest(options.lm) != tuned.lm_sha256:
        tuned = None
    if tuned:
        options = _from_tuning(options, tuned, run)
    elif options.lm is None and options.lm_weight:
        raise UsageError("--lm-weight weighs a language model: add --lm FILE.arpa.")
    if options.lexicon == NO_LEXICON:
        options = replace(options, lexicon=None)
    said = options
    has_lm = options.lm is not None and options.lm_weight != 0
    options = replace(
        options,
        beam_width=options.beam_width or BEAM_WIDTH,
        beam_backend=choose_backend(options),
        lm_weight=options.lm_weight if options.lm_weight is not None else LM_WEIGHT if has_lm else 0.0,
        word_bonus=options.word_bonus if options.word_bonus is not None else WORD_BONUS if has_lm else 0.0,
    )
    lm_sha256, lexicon_sha256 = (None if path is None else file_digest(path) for path in (options.lm, options.lexicon))
    # A weight as the tuning found it was chosen on its manifest, whether it was said again or taken from there.
    if tuned and tuned.lm_weight != options.lm_weight and tuned.word_bonus != options.word_bonus:
        tuned = None
    if tuned:
        why = _how_tuned(options, tuned, lexicon_sha256)
    elif has_lm and None in (said.lm_weight, said.word_bonus):
        why = " (not tuned: `dsrun eval RUN --tune-lm --lm FILE.arpa` does it)"
    else:
        why = ""
    _say(as_options(options) + why)
    return Resolved(options, lm_sha256, lexicon_sha256, tuned)


def _how_tuned(options: DecodingOptions, tuned: Tuned, lexicon_sha256: str | None) -> str:
    if (tuned.lm_weight, tuned.word_bonus) != (options.lm_weight, options.word_bonus):
        return " (of the weights one is tuned, with this language model, and the other is not)"
    if tuned.lexicon_sha256 == lexicon_sha256:
        return f" (weights tuned with this language model{' and lexicon' if lexicon_sha256 else ''})"
    wanted = "another lexicon" if tuned.lexicon and options.lexicon else "a lexicon" if tuned.lexicon else "no lexicon"
    return f" (weights tuned with this language model, but with {wanted})"


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


def _from_tuning(options: DecodingOptions, tuned: Tuned, run: Folder) -> DecodingOptions:
    """With every option that is not said as the tuning has it."""
    lm = options.lm or _unchanged(tuned.lm, tuned.lm_sha256, run)
    lexicon = options.lexicon
    if lexicon is None and tuned.lexicon is not None:
        lexicon = _unchanged(tuned.lexicon, tuned.lexicon_sha256, run)
    return DecodingOptions(
        decoder="beam",
        beam_width=options.beam_width or tuned.beam_width,
        lm=lm,
        lm_weight=tuned.lm_weight if options.lm_weight is None else options.lm_weight,
        word_bonus=tuned.word_bonus if options.word_bonus is None else options.word_bonus,
        lexicon=lexicon,
        beam_backend=options.beam_backend or tuned.beam_backend,
    )


def _unchanged(name: str, sha256: str | None, run: Folder) -> Path:
    """A file that the tuning used, if it is what it was."""
    path = Path(name)
    if not path.is_file() or file_digest(path) != sha256:
        raise DataError(
            f"{run.evaluation / TUNED}: was tuned with {path}, which is {'not what it was' if path.is_file() else 'not there any more'}. "
            f"Tune again (`dsrun eval {run.path} --tune-lm --lm FILE.arpa`), or name files and weights (--lexicon none: without one)."
        )
    return path


def _say(text: str) -> None:
    print(text, file=sys.stderr)
