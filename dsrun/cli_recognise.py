"""`dsrun eval`: how well a trained network recognises what a manifest lists."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsrun.cli_decoding import (
    AllowTestOption,
    BeamBackendOption,
    BeamWidthOption,
    DecoderOption,
    LexiconOption,
    LmOption,
    LmWeightOption,
    TuneOption,
    WordBonusOption,
    print_tuning,
)
from dsrun.cli_export import Format
from dsrun.cli_options import CheckpointOption, JsonOption
from dsrun.cli_scores import print_breakdown, print_comparison, print_scores
from dsrun.cli_tables import printable
from dsrun.errors import UsageError

if TYPE_CHECKING:
    from dsrun.decoding_options import DecodingOptions
    from dsrun.score_reports import Scored


def evaluate(
    context: typer.Context,
    run: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A run folder, an exported model, or results that an evaluation left (a .jsonl file).",
        ),
    ],
    manifest: Annotated[
        Path | None, typer.Option(help="Manifest to score. Default: the run's data.test, else data.dev.")
    ] = None,
    checkpoint: CheckpointOption = None,
    format: Annotated[
        Format | None,
        typer.Option(
            show_default=False, help="Score the run as `dsrun export` would make it; OTHER of --against as it is."
        ),
    ] = None,
    decoder: DecoderOption = "greedy",
    beam_width: BeamWidthOption = None,
    lm: LmOption = None,
    lm_weight: LmWeightOption = None,
    word_bonus: WordBonusOption = None,
    lexicon: LexiconOption = None,
    beam_backend: BeamBackendOption = None,
    tune_lm: TuneOption = False,
    allow_test: AllowTestOption = False,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Utterances a batch. Default: the config's global batch.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER",
            help="Another run or export (scored with the same options) or .jsonl of results to compare with, in pairs.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page: rates, tables, and each utterance's errors marked."),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="UTTERANCE", help="Only draw this utterance (-o): spectrogram, class probabilities, best path."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Of --plot, .png or .svg.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Word and character error rates of a run or an exported model on a manifest, with 95% bootstrap intervals over utterances.

    Rates are of the corpus: errors divided by reference words (characters), never clamped. An utterance whose reference is
    empty adds its hypothesis as insertions and nothing to the length; if all references are empty the rate is infinite with
    any insertion and 0 without. Each utterance's reference, hypothesis and errors go to MODEL/evaluation/<manifest>.jsonl.

    An exported model (`dsrun export`) is scored without the run; --format scores a run in that format without leaving a folder. With
    --against RUN the difference comes with an interval over pairs: --format int8 --against the same run says what int8 costs.

    Beam search (--decoder beam) writes to a file of its own, named after its settings. What is not said of it comes from the run's
    tuning (MODEL/evaluation/lm.json), if --tune-lm has left one; --lm-weight 0 is beam search alone.

    Then where the errors are: by length, by speaker where the manifest has speakers (with an interval that draws speakers instead
    of utterances), and which words and characters are confused.
    """
    from dsrun.cli_study import print_json
    from dsrun.score_reports import check_page, with_comparison, write_page

    if plot is not None or output is not None:
        _plot(context, run, plot, output, manifest=manifest, checkpoint=checkpoint, as_json=json_output)
        return
    from dsrun.decoding_options import DecodingOptions

    decoding = DecodingOptions(
        "beam" if tune_lm else decoder, beam_width, lm, lm_weight, word_bonus, lexicon, beam_backend
    )
    if tune_lm or allow_test:
        _tune(context, run, decoding, manifest=manifest, checkpoint=checkpoint, batch=batch, as_json=json_output)
        return
    options = {"manifest": manifest, "checkpoint": checkpoint, "decoding": decoding, "batch": batch}
    sources = [source for source in (run, against) if source is not None]
    _check_sources(context, sources)
    of_first = options | {"format": format}
    if html is not None:
        check_page(html)
    scored = _score(run, _said_to(run, of_first, sources))
    if against is not None:
        options["manifest"] = manifest or scored.manifest
        scored = with_comparison(scored, _score(against, _said_to(against, options, sources)))
    if html is not None:
        write_page(html, scored)
    if json_output:
        print_json(scored.report | ({"page": str(html)} if html else {}))
        return
    print_scores(scored.report)
    print_breakdown(scored.report)
    if against is not None:
        print_comparison(scored.report)
    if html is not None:
        print(f"\npage: {html}")


# Of `dsrun eval`: what is about results, whoever made them. Every other option needs a network.
OPTIONS_OF_RESULTS = {"run", "against", "html", "json_output"}


def _check_sources(context: typer.Context, sources: Sequence[Path]) -> None:
    """Refuse, before any work, options that nothing would obey and two runs that one process cannot score."""
    from dsrun.score_reports import is_exported, is_results_file, refuse_another_runtime

    models = [source for source in sources if not is_results_file(source)]
    if context.params["format"] is not None and is_results_file(sources[0]):
        raise UsageError(
            f"--format: for a run, and {sources[0]} is a file of results. Leave it out, or name the run's folder."
        )
    if len(models) == 2:
        refuse_another_runtime(*models)
        if is_exported(models[0]):
            from dsrun.models import start_runtime_of_runs

            start_runtime_of_runs(models[1:])
    if not models and (unused := _given(context, besides=OPTIONS_OF_RESULTS)):
        raise UsageError(
            f"{', '.join(unused)}: for a run, and {sources[0]} is a file of results, which no network is asked for. Leave it out, "
            "or name the run's folder."
        )


def _said_to(source: Path, options: dict[str, Any], sources: Sequence[Path]) -> dict[str, Any]:
    """The options for one of the sources: a checkpoint is of a run, so of a run and an export the run alone is told."""
    from dsrun.score_reports import is_exported

    others = [other for other in sources if other != source and not is_exported(other) and other.is_dir()]
    return options | {"checkpoint": None} if is_exported(source) and others else options


# Of `--tune-lm`, which scores nothing.
OPTIONS_OF_TUNING = {
    *(
        "run",
        "manifest",
        "checkpoint",
        "decoder",
        "beam_width",
        "lm",
        "lm_weight",
        "word_bonus",
        "lexicon",
        "beam_backend",
    ),
    *("tune_lm", "allow_test", "batch", "json_output"),
}


def _tune(
    context: typer.Context,
    run: Path,
    decoding: "DecodingOptions",
    *,
    manifest: Path | None,
    checkpoint: str | None,
    batch: int | None,
    as_json: bool,
) -> None:
    """Find the language model's weights instead of scoring."""
    from dsrun.cli_study import print_json

    if not context.params["tune_lm"]:
        raise UsageError("--allow-test is for --tune-lm.")
    if unused := _given(context, besides=OPTIONS_OF_TUNING):
        raise UsageError(f"--tune-lm finds weights and scores nothing: leave {', '.join(unused)} out.")
    from dsrun.lm_tuning import tune_lm

    allow_test = context.params["allow_test"]
    report = tune_lm(run, decoding, manifest=manifest, checkpoint=checkpoint, batch=batch, allow_test=allow_test)
    print_json(report) if as_json else print_tuning(report)


OPTIONS_OF_A_PLOT = {"run", "manifest", "checkpoint", "plot", "output", "json_output"}


def _plot(
    context: typer.Context,
    run: Path,
    id: str | None,
    output: Path | None,
    *,
    manifest: Path | None,
    checkpoint: str | None,
    as_json: bool,
) -> None:
    """Draw one utterance instead of scoring all."""
    from dsrun.cli_study import print_json
    from dsrun.study.plots import check_suffix

    if id is None or output is None:
        raise UsageError("--plot UTTERANCE and -o FILE go together: write both.")
    if unused := _given(context, besides=OPTIONS_OF_A_PLOT):
        raise UsageError(f"--plot draws one utterance and scores none: leave {', '.join(unused)} out.")
    check_suffix(output)
    from dsrun.utterance_plot import plot_utterance

    report = plot_utterance(run, id, manifest=manifest, checkpoint=checkpoint, output=output)
    if as_json:
        print_json(report)
        return
    errors = {unit: report[unit] for unit in ("characters", "words")}
    print(f"said   {printable(report['reference'])}\nread   {printable(report['hypothesis'])}")
    print(
        ", ".join(f"{count['errors']} errors in {count['reference_length']} {unit}" for unit, count in errors.items())
    )
    print(f"figure: {report['figure']}")


def _given(context: typer.Context, *, besides: set[str]) -> list[str]:
    """Options on the command line that are not among `besides`."""
    sources = {parameter: context.get_parameter_source(parameter.name or "") for parameter in context.command.params}
    return [
        parameter.opts[0]
        for parameter, source in sources.items()
        if parameter.name not in besides and source is not None and source.name == "COMMANDLINE"
    ]


def _score(source: Path, options: dict[str, Any]) -> "Scored":
    from dsrun.score_reports import is_results_file, score_file

    if is_results_file(source):
        return score_file(source)
    from dsrun.scoring import score_run

    return score_run(source, **options)
