"""`dsrun lm`: language models for beam search."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dsrun.cli_options import JsonOption

lm_app = typer.Typer(
    help="Train n-gram language models for beam search, and see how they fit a text.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TextArgument = Annotated[
    Path, typer.Argument(metavar="TEXT", help="One sentence a line, or a manifest (.jsonl): its transcripts.")
]
NormalizerOption = Annotated[
    str, typer.Option(help="How sentences are normalised; as the run's data.normalizer. nfkc_lower, english or as_is.")
]
CharactersOption = Annotated[bool, typer.Option("--characters", help="Of characters, for alphabets without a space.")]


@lm_app.command("train")
def lm_train(
    text: TextArgument,
    output: Annotated[
        Path, typer.Argument(metavar="OUT.arpa", help="File to write; an ARPA file of that name is replaced.")
    ],
    order: Annotated[int, typer.Option(min=1, max=5, help="Words that an n-gram has at most.")] = 3,
    normalizer: NormalizerOption = "nfkc_lower",
    characters: CharactersOption = False,
    dev: Annotated[Path | None, typer.Option(help="Another text or manifest, to say the perplexity of.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Train a Kneser-Ney n-gram model on a text and write it as an ARPA file.

    Train on text that is not scored: an evaluation with a language model that has read the test set says nothing.
    """
    from dsrun.cli_study import print_json
    from dsrun.language_models import train_language_model

    report = train_language_model(text, output, order=order, normalizer=normalizer, characters=characters, dev=dev)
    if json_output:
        print_json(report)
        return
    ngrams = ", ".join(f"{count} {n}-grams" for n, count in enumerate(report["ngrams"], start=1))
    print(f"{report['lm']}: {ngrams}, from {report['sentences']} sentences of {report['text']}")
    _print_fit(f"on {report['text']} itself", report["fit"])
    if report["dev"]:
        _print_fit(f"on {report['dev']['text']}", report["dev"])


@lm_app.command("score")
def lm_score(
    lm: Annotated[Path, typer.Argument(metavar="FILE.arpa", help="Language model.")],
    text: TextArgument,
    normalizer: NormalizerOption = "nfkc_lower",
    characters: CharactersOption = False,
    json_output: JsonOption = False,
) -> None:
    """Perplexity of a text under a language model."""
    from dsrun.cli_study import print_json
    from dsrun.language_models import score_text

    report = score_text(lm, text, normalizer=normalizer, characters=characters)
    print_json(report) if json_output else _print_fit(f"on {report['text']}", report)


@lm_app.command("words")
def lm_words(lm: Annotated[Path, typer.Argument(metavar="FILE.arpa", help="Language model.")]) -> None:
    """Print the words that a language model lists, one a line: a lexicon for `dsrun eval --lexicon`."""
    from dsrun.ctc import read_arpa

    print("\n".join(read_arpa(lm).vocabulary))


def _print_fit(name: str, report: dict[str, Any]) -> None:
    def text(value: float | None) -> str:
        return "not finite" if value is None else f"{value:.1f}"

    print(
        f"perplexity {text(report['perplexity'])} {name}: {report['sentences']} sentences, {report['words']} words, "
        f"{report['words_outside']} of them outside the model (perplexity without these {text(report['perplexity_of_listed'])})"
    )
