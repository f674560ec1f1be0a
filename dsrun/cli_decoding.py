"""Options of beam search, and the table of `dsrun eval --tune-lm`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dsrun.cli_options import finite
from dsrun.cli_scores import print_model
from dsrun.cli_tables import print_table

DecoderOption = Annotated[str, typer.Option(help="greedy, or beam: the most probable text of many paths.")]
BeamWidthOption = Annotated[
    int | None, typer.Option(min=1, max=100_000, help="Prefixes that a beam keeps. Default 64.")
]
LmOption = Annotated[
    Path | None, typer.Option("--lm", metavar="FILE.arpa", help="N-gram language model for --decoder beam.")
]
LmWeightOption = Annotated[
    float | None,
    typer.Option(min=0.0, max=1e6, callback=finite, help="Of the language model's natural log-probability."),
]
WordBonusOption = Annotated[float | None, typer.Option(min=-1e6, max=1e6, callback=finite, help="Added for each word.")]
LexiconOption = Annotated[
    Path | None,
    typer.Option(
        help="Only find texts of these words, one a line (`dsrun lm words` prints a model's); none: not the tuned one."
    ),
]
BeamBackendOption = Annotated[
    str | None,
    typer.Option(help="own (default), flashlight (faster; extra lm), or auto: flashlight with --lexicon if installed."),
]
TuneOption = Annotated[
    bool,
    typer.Option("--tune-lm", help="Find --lm-weight and --word-bonus on the dev set instead of scoring."),
]
AllowTestOption = Annotated[
    bool, typer.Option("--allow-test", help="Let --tune-lm use the run's test set, whose error rates then mean less.")
]

BEST_SHOWN = 10


def print_tuning(report: dict[str, Any]) -> None:
    """Error rates by weight and bonus, the best points, and the best one as options."""
    points = {(point["lm_weight"], point["word_bonus"]): point for point in report["points"]}
    weights, bonuses = (sorted({key[axis] for key in points}) for axis in (0, 1))
    print_model(report)
    print(f"manifest  {report['manifest']}  {report['utterances']} utterances")
    for name in ("wer", "cer"):
        print(f"\n{name.upper()} by weight of the language model (down) and word bonus (across)")
        print_table(_grid(points, weights, bonuses, name))
    print(f"\nbest {min(BEST_SHOWN, len(points))} of {len(points)} points, by {report['objective'].upper()}")
    print_table(
        [
            {name: point[name] for name in ("lm_weight", "word_bonus", "wer", "cer")}
            for point in report["points"][:BEST_SHOWN]
        ]
    )
    if report["is_on_edge"]:
        print("the best point is on the edge of what was tried: beyond it may be better ones")
    best = report["best"]
    print(f"\n--lm {best['lm']} --lm-weight {best['lm_weight']:g} --word-bonus {best['word_bonus']:g}")
    print(
        f"written to {report['written']}: `dsrun eval {report.get('export') or report['run']} --decoder beam` takes it from there"
    )


def _grid(
    points: dict[tuple[float, float], dict[str, Any]], weights: Sequence[float], bonuses: Sequence[float], name: str
) -> list[dict[str, Any]]:
    def cell(weight: float, bonus: float) -> str:
        point = points.get((weight, bonus))
        return "" if point is None else "-" if point[name] is None else f"{point[name]:.4f}"

    return [{"": f"{weight:g}"} | {f"{bonus:g}": cell(weight, bonus) for bonus in bonuses} for weight in weights]
