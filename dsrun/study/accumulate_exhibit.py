"""100 + 100 x 0.01 as an exhibit, drawn from the document of `dsrun study accumulate --json`.

Up to four panels: the sum as it grows; where it ends, a row for each format and way of adding, dots with the range of the draws beside what
real numbers give; the mean against the number of random bits; sums of uniform numbers. Colour says the format and dash the
rounding, as everywhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrun.study.exhibit import Exhibit, is_narrow, new_figure
from dsrun.study.keys import draw_key, key_height
from dsrun.study.number_words import listed
from dsrun.study.styles import DIRECTED, NEAREST, STOCHASTIC, Dash, Style, style_of
from dsrun.study.talk_documents import read_study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#000000"
_NEAR = 2.0  # standard errors, within which a mean is as expected


def accumulate_exhibit(path: Path) -> Exhibit:
    """Of a file that `dsrun study accumulate --json` wrote.

    Raises:
        DataError: it is no such file.
    """
    document = read_study(path, "accumulate")
    answer = _answer(document)
    sum_words = f"{document['start']:g} + {document['times']} x {document['increment']:g}"
    return Exhibit(
        "accumulate",
        f"{sum_words} in small formats",
        " ".join([answer, *_masters(document), *_bits(document), *_uniforms(document)]),
        f"Sums as they grow and where they end, by format and rounding. {answer}",
        _rows(document),
        lambda width: draw_accumulate(document, width),
    )


def _exact(document: Mapping[str, Any]) -> float:
    return float(document["start"] + document["times"] * document["increment"])


def _narrow_sums(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The sums that were rounded each time, with a known mean."""
    rows = [row for row in document["sums"] if row["format"] == row["accumulator"] != "float32"]
    return [row for row in rows if row["mean"] is not None]


def _answer(document: Mapping[str, Any]) -> str:
    exact = _exact(document)
    stuck = [r["format"] for r in _narrow_sums(document) if r["rounding"] == "ties_to_even" and r["at_start"] == 1.0]
    moved = [r for r in _narrow_sums(document) if r["rounding"] == "ties_to_even" and r["at_start"] != 1.0]
    words = []
    if stuck:
        words.append(f"rounded to nearest the sum stays at {document['start']:g} in {listed(stuck)}")
    if moved:
        words.append("rounded to nearest it gives " + listed([f"{r['mean']:g} in {r['format']}" for r in moved]))
    drawn = [row for row in _narrow_sums(document) if row["rounding"] == "stochastic"]
    if drawn:
        means = listed([f"{row['mean']:.3f} ± {2 * row['standard_error']:.3f} in {row['format']}" for row in drawn])
        words.append(f"rounded stochastically its mean is {means}")
    text = "; ".join(words) if words else "no sum is known"
    return f"{text[0].upper()}{text[1:]}; real numbers give {exact:g}."


def _masters(document: Mapping[str, Any]) -> list[str]:
    rows = [row for row in document["sums"] if row["accumulator"] == "float32" and row["format"] != "float32"]
    values = listed([f"{row['mean']:g} in {row['format']}" for row in rows])
    return [f"Added in float32 and rounded once at the end it is {values}."] if rows else []


def _bits(document: Mapping[str, Any]) -> list[str]:
    """For each format the fewest random bits by which the mean is what real numbers give."""
    words = []
    for name, rows in _sweeps(document).items():
        good = [row["random_bits"] for row in rows if _is_near(row, _exact(document))]
        fewest = next((bits for bits in good if all(n in good for n in range(bits, rows[-1]["random_bits"] + 1))), None)
        words.append(f"{fewest} in {name}" if fewest else f"more than {rows[-1]['random_bits']} in {name}")
    return (
        [f"Fewest random bits from which on the mean is within two standard errors of that: {listed(words)}."]
        if words
        else []
    )


def _is_near(row: Mapping[str, Any], exact: float) -> bool:
    return row["mean"] is not None and abs(row["mean"] - exact) <= _NEAR * max(row["standard_error"] or 0.0, 1e-9)


def _sweeps(document: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in document.get("random_bits") or ():
        found.setdefault(row["format"], []).append(row)
    return found


def _uniforms(document: Mapping[str, Any]) -> list[str]:
    rows = [row for row in document.get("uniforms") or () if row["format"] == row["accumulator"] != "float32"]
    if not rows:
        return []
    words = [
        f"{row['mean']:,.0f} in {row['format']} {_rounding(row['rounding'])}" for row in rows if row["mean"] is not None
    ]
    exact = rows[0]["exact_mean"]
    return [f"{rows[0]['uniforms']:,} numbers uniform in [0, 1) sum to {exact:,.0f}; there: {listed(words)}."]


def _rounding(mode: str) -> str:
    return {"ties_to_even": "nearest"}.get(mode, mode)


def _rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every number of the four panels, in long form."""
    rows = []
    for panel, ways in (("growth", document["growth"]), ("uniforms", document.get("uniform_growth") or ())):
        for way in ways:
            about = {"panel": panel, "format": way["format"], "rounding": way["rounding"]}
            columns = zip(way["additions"], way["real"], way["mean"], way.get("sd", way["mean"]), strict=True)
            rows += [
                about | {"additions": n, "real": real, "mean": mean} | ({"sd": sd} if "sd" in way else {})
                for n, real, mean, sd in columns
            ]
    ends = ("format", "accumulator", "rounding", "mean", "sd", "standard_error", "min", "max")
    rows += [{"panel": "ends"} | {name: row.get(name) for name in ends} for row in document["sums"]]
    bits = ("format", "random_bits", "mean", "standard_error", "predicted_mean")
    return rows + [
        {"panel": "random bits"} | {name: row.get(name) for name in bits} for row in document.get("random_bits") or ()
    ]


def draw_accumulate(document: Mapping[str, Any], width: float) -> "Figure":
    """Those panels that there are, in two columns or in one below another."""
    draws = [_draw_growth, _draw_ends]
    draws += [_draw_sweeps] if document.get("random_bits") else []
    draws += [_draw_uniforms] if document.get("uniform_growth") else []
    across = 1 if is_narrow(width) else 2
    rows = -(-len(draws) // across)
    ways = [(way["format"], way["rounding"]) for way in document["growth"]]
    key = [(f"{format} {_rounding(mode)}", _style(format, mode)) for format, mode in dict.fromkeys(ways)]
    key += [("real numbers", Style(INK, "-", ""))]
    above, height = key_height(key, width), 2.9
    figure = new_figure(width, above + height * rows)
    top, below = figure.subfigures(2, 1, height_ratios=[above, height * rows], squeeze=False)[:, 0]
    draw_key(top, key, width)
    # Each panel in a part of its own: the long names of one must not push the others aside.
    for place, draw in zip(np.ravel(below.subfigures(rows, across, squeeze=False)), draws, strict=False):
        axes = place.subplots()
        draw(axes, document)
        axes.tick_params(labelsize=8)
        axes.title.set_fontsize(8)
    return figure


def _style(format: str, mode: str) -> Style:
    """The format's colour and marker, the rounding's dash."""
    own = style_of({"arithmetic.storage.format": format})
    dash: Dash = NEAREST if mode.startswith("ties") else STOCHASTIC if mode.startswith("stochastic") else DIRECTED
    return Style(own.colour, dash, "")


def _draw_growth(axes: "Axes", document: Mapping[str, Any]) -> None:
    for way in document["growth"]:
        style = _style(way["format"], way["rounding"])
        n, mean, sd = (_array(way[name]) for name in ("additions", "mean", "sd"))
        axes.plot(n, mean, ls=style.dash, color=style.colour, lw=1.6)
        if np.nansum(sd) > 0:
            axes.fill_between(n, mean - sd, mean + sd, color=style.colour, alpha=0.13, lw=0)
    first = document["growth"][0]
    axes.plot(first["additions"], first["real"], color=INK, lw=0.8)
    axes.set_xlabel("additions", fontsize=8)
    axes.set_ylabel("sum", fontsize=8)
    axes.set_title("the sum as it grows (band: sd of the draws)")
    axes.ticklabel_format(useOffset=False)


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)


def _draw_ends(axes: "Axes", document: Mapping[str, Any]) -> None:
    rows = [row for row in document["sums"] if row["mean"] is not None]
    for place, row in enumerate(rows):
        own = style_of({"arithmetic.storage.format": row["format"]})
        axes.plot([row["min"], row["max"]], [place, place], color=own.colour, lw=1.0, alpha=0.5)
        filled = own.colour if row["accumulator"] == row["format"] else "white"
        axes.plot(row["mean"], place, own.marker, color=own.colour, mfc=filled, ms=6)
    axes.axvline(_exact(document), color=INK, lw=0.8, zorder=0)
    axes.set_yticks(range(len(rows)), [_end_label(row) for row in rows], fontsize=8, parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("sum at the end", fontsize=8)
    axes.set_title("where it ends (line: range of the draws)")
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.locator_params(axis="x", nbins=5)


def _end_label(row: Mapping[str, Any]) -> str:
    wide = row["accumulator"] != row["format"]
    return f"{row['format']}, {row['accumulator']} sum" if wide else f"{row['format']} {_rounding(row['rounding'])}"


def _draw_sweeps(axes: "Axes", document: Mapping[str, Any]) -> None:
    for name, rows in _sweeps(document).items():
        own = style_of({"arithmetic.storage.format": name})
        bits, means = [row["random_bits"] for row in rows], _array([row["mean"] for row in rows])
        errors = 2 * np.nan_to_num(_array([row["standard_error"] for row in rows]))
        axes.errorbar(bits, means, errors, fmt=own.marker, ms=4, capsize=2, color=own.colour)
        axes.plot(bits, _array([row["predicted_mean"] for row in rows]), color=own.colour, lw=0.9)
    axes.axhline(_exact(document), color=INK, lw=0.8, zorder=0)
    axes.set_xlabel("random bits", fontsize=8)
    axes.set_ylabel("mean of the sums", fontsize=8)
    axes.set_title("few random bits (bars: 2 standard errors)")
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(axis="x", integer=True)


def _draw_uniforms(axes: "Axes", document: Mapping[str, Any]) -> None:
    ways = document["uniform_growth"]
    for way in ways:
        style = _style(way["format"], way["rounding"])
        axes.plot(way["additions"], _array(way["mean"]), ls=style.dash, color=style.colour, lw=1.6)
    axes.plot(ways[0]["additions"], ways[0]["real"], color=INK, lw=0.8)
    axes.set_xlabel("numbers added", fontsize=8)
    axes.set_ylabel("sum, mean of sequences", fontsize=8)
    axes.set_title("numbers uniform in [0, 1)")
    axes.locator_params(axis="x", nbins=5)
