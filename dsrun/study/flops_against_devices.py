"""TFLOP/s against the number of devices: the talk's figure, from whatever was measured here.

Measured, and drawn filled, are runs (operations of an epoch from `costs.json`, divided by the seconds that its steps took) and reports of
`dsrun bench step` and `scaling`. Modelled, and drawn hollow, is what a scaling report's counted bytes would cost on links of data sheets
(`scaling_model`). The ideal line goes through the first measured point of a device. The talk's marks are shares of the float32 FMA peak,
55% on one GPU and 48% a GPU on eight: crosses at that share of the device's own peak, by its data sheet; a CPU has none, and there
they are shares of the rate of large products that a report measured beside its steps.

Operations are those of valid frames, forward and backward; padding is not credited.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dsrun.errors import UsageError
from dsrun.study.datasheets import datasheet
from dsrun.study.exhibit import Exhibit
from dsrun.study.flops_figure import Unit, draw_flops, unit_of
from dsrun.study.groups import group_runs, settings_of
from dsrun.study.keys import styles_of
from dsrun.study.number_words import percent
from dsrun.study.run_record import RunRecord
from dsrun.study.scaling_model import H100_FMA_TFLOP, Point, modelled_panel, one_device
from dsrun.study.styles import Style

TALK = ((1, 0.55), (8, 0.48))  # devices, and share of the peak of each
MODELLED_ON = "H100 links, modelled"


@dataclass(frozen=True)
class Series:
    """Points of one kind: what they are of, on which device, whether measured, and a device's peak in TFLOP/s with whose it is.

    `style` is that of a setting in the report's other figures; None for what is no setting's, and for a setting's further devices.
    """

    name: str
    device: str
    points: tuple[Point, ...]
    is_measured: bool
    peak: float | None = None
    peak_is: str = ""
    style: Style | None = None


def flops_against_devices(runs: Sequence[RunRecord], *, benches: Sequence[Mapping[str, Any]] = ()) -> Exhibit | None:
    """Rates of runs and of reports; None where none is known.

    Args:
        benches: JSON documents of `dsrun bench step` and `dsrun bench scaling`; others are passed over.

    Raises:
        DataError: a file of a run is damaged.
        UsageError: a report has no such figures as dsrun writes.
    """
    try:
        measured = [*_of_runs(runs), *(own for report in benches if (own := _of_bench(report)))]
        modelled = [own for report in benches if report.get("benchmark") == "scaling" for own in _modelled(report)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(
            f"a report of `dsrun bench` is not as dsrun writes it ({error!r}). Run the benchmark again."
        ) from None
    series = measured + modelled
    if not any(own.points for own in series):
        return None
    marks = _marks(series)
    rates = [point.tflop_per_second for own in series for point in own.points] + [rate for *_, rate in marks]
    unit = unit_of(max(rates))
    answer = _answer(measured, unit)
    return Exhibit(
        "flops_against_devices",
        "TFLOP/s against devices",
        " ".join([answer, *_about(measured, modelled, marks)]),
        f"Rate against the number of devices, both on logarithmic scales to base 2. {answer}",
        _rows(series, marks),
        partial(draw_flops, series, marks, unit),
    )


def _of_runs(runs: Sequence[RunRecord]) -> list[Series]:
    """A series for each setting and device; seeds and repetitions on as many devices give their median."""
    labels: dict[str, list[str]] = {}
    groups = group_runs(runs)
    styles = styles_of(groups)
    own_styles: dict[str, Style] = {}
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for group in groups:
        identity = json.dumps(settings_of(group.runs[0]), sort_keys=True, default=str)
        own_styles.setdefault(identity, styles[group.label])
        labels.setdefault(identity, []).append(group.label)
        for run in group.runs:
            rate, count = tflop_per_second(run), device_count(run)
            if rate and count:
                by_count = found.setdefault((identity, run.device or "unknown device"), {})
                by_count.setdefault(count, []).append(rate)
    # The same experiment again, as on another number of devices, is another group with a label of its own.
    names = {identity: own[0] if len(own) == 1 else _common(own) for identity, own in labels.items()}
    series = []
    for (identity, device), rates in found.items():
        points = tuple(Point(count, float(np.median(own)), True) for count, own in sorted(rates.items()))
        style = own_styles.pop(identity, None)  # the first device has it
        series.append(Series(names[identity], device, points, True, *_sheet(device), style))
    return series


def _common(labels: Sequence[str]) -> str:
    """What labels begin with, as far as whole parts go."""
    parts = [label.split(", ") for label in labels]
    same = [words[0] for words in zip(*parts, strict=False) if len(set(words)) == 1]
    return ", ".join(same) or labels[0]


def device_count(run: RunRecord) -> int | None:
    """How many devices the run last trained on; None for runs of before it was written down."""
    devices = run.status.get("devices")
    count = devices.get("count") if isinstance(devices, Mapping) else None
    return count if type(count) is int and 0 < count < 2**20 else None


def tflop_per_second(run: RunRecord) -> float | None:
    """Of valid frames, from the median epoch after the first (which compiles), or from the median step of a run of one epoch."""
    costs = run.costs
    flops = costs.get("flops")
    operations = flops.get("training") if isinstance(flops, Mapping) else None
    steps_an_epoch = costs.get("steps_per_epoch")
    if (
        type(operations) is not int
        or type(steps_an_epoch) is not int
        or not 0 < operations < 2**80
        or steps_an_epoch < 1
    ):
        return None
    epochs, seconds = run.steps.epoch, run.steps.seconds
    whole = [
        float(seconds[epochs == epoch].sum())
        for epoch in np.unique(epochs[np.isfinite(epochs)])[1:]
        if np.isfinite(seconds[epochs == epoch]).sum() == steps_an_epoch == (epochs == epoch).sum()
    ]
    step = run.seconds_a_step
    spent = float(np.median(whole)) if whole else step * steps_an_epoch if step else 0.0
    return operations / spent / 1e12 if spent > 0 else None


def _sheet(device: str) -> tuple[float | None, str]:
    peak = datasheet(device).get("float32")
    return peak, "float32 FMA, data sheet" if peak else ""


def _of_bench(report: Mapping[str, Any]) -> Series | None:
    """What a benchmark measured; None for reports of parts."""
    kind = report.get("benchmark")
    if kind not in ("step", "scaling") or (kind == "scaling" and not report["rows"]):
        return None
    device, count = str(report["machine"]["device"]), int(report["machine"]["devices"])
    rates = (
        {count: report["whole"]["tflop_per_second"]}
        if kind == "step"
        else {r["devices"]: r["tflop_per_second"] for r in report["rows"]}
    )
    points = tuple(Point(int(number), _positive(rate), True) for number, rate in sorted(rates.items()))
    peak, peak_is = _sheet(device)
    ceilings = report.get("ceilings")
    if peak is None and ceilings:
        product = next(iter(ceilings["products"].values()))
        # CPU devices share their cores, so what all of them reach together is what one may have.
        shares = report["machine"]["platform"] == "cpu"
        peak = _positive(product["measured_tflop_per_second"]) / (1 if shares else int(ceilings["devices"]))
        peak_is = "large products, measured beside the steps" + (", of all cores" if shares else "")
    name = f"bench {kind} {_stem(report.get('config'))}".rstrip()
    return Series(name, device, points, True, peak, peak_is)


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise ValueError(f"{value!r} is no rate")
    return float(value)


def _stem(config: Any) -> str:
    return str(config).rsplit("/", 1)[-1].removesuffix(".yaml") if config else ""


def _modelled(report: Mapping[str, Any]) -> list[Series]:
    one = one_device(report)
    # From a measured step the model is of that device, and has its ideal line and marks.
    device = str(report["machine"]["device"]) if one.is_measured else MODELLED_ON
    peak, peak_is = _sheet(device) if one.is_measured else (H100_FMA_TFLOP, "float32 FMA, H100's data sheet")
    found = []
    for own in modelled_panel(report).series:
        points = tuple(point for point in own.points if not point.is_measured)
        found.append(Series(f"modelled, {own.name}", device, points, False, peak, peak_is))
    return found


def _marks(series: Sequence[Series]) -> list[tuple[str, int, float, float]]:
    """The talk's shares of each device's peak that is known: device, number of devices, share, TFLOP/s.

    Devices of a CPU share its cores, whose peak does not grow with them: there the mark of eight has no meaning.
    """
    marks: dict[tuple[str, int], tuple[str, int, float, float]] = {}
    for own in series:
        for count, share in TALK:
            if own.peak and not (count > 1 and "of all cores" in own.peak_is):
                marks[own.device, count] = (own.device, count, share, own.peak * count * share)
    return list(marks.values())


def _answer(measured: Sequence[Series], unit: Unit) -> str:
    points = [(own, point) for own in measured for point in own.points]
    if not points:
        return "Nothing was measured here: all points are modelled."
    own, point = max(points, key=lambda pair: pair[1].tflop_per_second)
    where = "one device" if point.devices == 1 else f"{point.devices} devices"
    text = (
        f"{_upper(own.name)} reaches {point.tflop_per_second * unit.a_tflop:.3g} {unit.name} on {where} ({own.device})"
    )
    if own.peak:
        peak = own.peak * (1 if "of all cores" in own.peak_is else point.devices)
        text += f", {percent(point.tflop_per_second / peak)} of the peak ({own.peak_is}); the talk has 55% on one GPU and 48% on eight"
    return text + "."


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _about(
    measured: Sequence[Series], modelled: Sequence[Series], marks: Sequence[tuple[str, int, float, float]]
) -> list[str]:
    texts = []
    counts = {point.devices for own in measured for point in own.points}
    if measured and len(counts) == 1:
        count = next(iter(counts))
        texts.append(
            f"All points have {'one device' if count == 1 else f'{count} devices'}, so nothing is seen of how the rate grows with them."
        )
    if len({own.device for own in measured}) > 1:
        texts.append("Devices differ, and only points of one kind compare.")
    if any("of all cores" in own.peak_is for own in measured):
        texts.append("Devices of a CPU share its cores: more of them bring no hardware.")
    texts.append("Filled points are measured; operations are those of valid frames, forward and backward.")
    if modelled:
        texts.append(
            "Hollow points are modelled from counted bytes and data sheets, weak scaling, and nothing of them was measured."
        )
    if marks:
        texts.append("Crosses are the talk's shares of the peak, 55% and 48%.")
    elif measured:
        texts.append(
            "The peak of these devices is not known, so the talk's shares of it are not drawn; a report of dsrun bench measures one."
        )
    return texts


def _rows(series: Sequence[Series], marks: Sequence[tuple[str, int, float, float]]) -> list[dict[str, Any]]:
    rows = [
        {
            "series": own.name,
            "device": own.device,
            "devices": point.devices,
            "TFLOP/s": point.tflop_per_second,
            "measured": own.is_measured,
            "peak of a device": own.peak,
            "peak is": own.peak_is or None,
        }
        for own in series
        for point in own.points
    ]
    return rows + [
        {"series": f"the talk's {share:.0%}", "device": device, "devices": count, "TFLOP/s": rate, "measured": False}
        for device, count, share, rate in marks
    ]
