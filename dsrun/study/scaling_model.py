"""What many GPUs would reach, from a step on one and counted bytes: drawn hollow, since nothing of it was measured. No JAX.

    seconds of a step = one device's step + bytes / bandwidth + messages * latency          nothing overlaps
    TFLOP/s           = devices * one device's FLOPs / seconds

Weak scaling, as in the talk: every GPU has the shards that the report's step had in all, so the work of one GPU stays and the global
batch grows. (With a config's fixed `batches.shards` a number of devices beyond it would have nothing to do.) One device's step is the
report's if that was on a GPU, and otherwise an assumption: the talk's 55% of the float32 FMA peak, on an H100.

The tree sends its pieces directly, all-to-all and then all-gather, to N - 1 others each time. In a node of 8 they go by NVLink; of N GPUs
in several nodes (N - 8) / (N - 1) of the bytes leave by the GPU's own network port. The exchange lasts as long as the busier of the busiest
sender and the busiest owner. The library's all-reduce is a ring: 2 (N - 1) messages one after the other, 2 (nodes - 1) of which cross
between nodes, with every port of a node carrying a ring of its own, an eighth of the bytes, so that a node's 8 ports together
are the bandwidth there.

Left out, and so in our favour: packing and unpacking, the owner's additions, launches, slower peers, a busy network. Left out, and
against both: that a transfer could begin before the last gradient is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

DEVICE_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
GPUS_A_NODE = 8

# Bandwidths in bytes/s, one direction, of data sheets: NVIDIA H100 SXM, NVLink 4, 900 GB/s both directions together; InfiniBand NDR,
# 400 Gb/s, one port a GPU. Neither is reached in practice.
NVLINK_BANDWIDTH = 450e9
NETWORK_BANDWIDTH = 50e9
# Seconds a message, as NCCL's own model of a ring with its Simple protocol has them: src/graph/tuning.cc, hwLat, NVLINK and NET
# (commit 01afd20).
NVLINK_LATENCY = 3.4e-6
NETWORK_LATENCY = 9.6e-6

H100_FMA_TFLOP = 67.0  # float32, data sheet of the H100 SXM
TALK_SHARE_OF_FMA = 0.55  # on one GPU

Kind = Literal["tree", "all_reduce"]


@dataclass(frozen=True)
class OneDevice:
    """A step on one device; `is_from` says in words whose it is."""

    seconds: float
    flops: float
    is_measured: bool
    is_from: str


@dataclass(frozen=True)
class Point:
    """A mark of the figure: filled where measured, hollow where not."""

    devices: int
    tflop_per_second: float
    is_measured: bool


@dataclass(frozen=True)
class Series:
    """One way of adding up, on a growing number of devices."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class ScalingPanel:
    """Series that may be compared with one another, and what they are. The ideal line goes through the first point."""

    title: str
    series: tuple[Series, ...]
    caption: str


def one_device(report: Mapping[str, Any]) -> OneDevice:
    """The step on one GPU that a `dsrun bench scaling` measured, or the talk's share of an H100 for the same FLOPs."""
    flops = report["counted"]["flops_a_step"]
    rows = {row["devices"]: row for row in report["rows"]}
    if report["machine"]["platform"] != "cpu" and 1 in rows:
        return OneDevice(rows[1]["seconds_a_step_median"], flops, True, f"measured on {report['machine']['device']}")
    seconds = flops / (TALK_SHARE_OF_FMA * H100_FMA_TFLOP * 1e12)
    words = f"assumed: {TALK_SHARE_OF_FMA:.0%} of an H100's {H100_FMA_TFLOP:g} TFLOP/s (float32 FMA), the talk's share"
    return OneDevice(seconds, flops, False, words)


def sum_seconds(counted: Mapping[str, int], kind: Kind) -> float:
    """Time of the sum over devices.

    Args:
        counted: "devices" and the bytes of `dsrun.training.exchange.bytes_sent`.
    """
    count = counted["devices"]
    if count == 1:
        return 0.0
    nodes = -(-count // GPUS_A_NODE)
    if kind == "all_reduce":
        between = 2 * (nodes - 1)
        bandwidth = NVLINK_BANDWIDTH if nodes == 1 else min(NVLINK_BANDWIDTH, GPUS_A_NODE * NETWORK_BANDWIDTH)
        latency = (2 * (count - 1) - between) * NVLINK_LATENCY + between * NETWORK_LATENCY
        return counted["ring"] / bandwidth + latency
    near = min(count, GPUS_A_NODE) - 1
    far = count - 1 - near
    bytes_a_peer = (max(counted["exchanged"], counted["received"]) + counted["gathered"]) / (count - 1)
    by_nvlink = near * (bytes_a_peer / NVLINK_BANDWIDTH + 2 * NVLINK_LATENCY)
    return by_nvlink + far * (bytes_a_peer / NETWORK_BANDWIDTH + 2 * NETWORK_LATENCY)


def model_rows(one: OneDevice, counted: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
    """Seconds, rate and efficiency of both sums, for each number of devices that bytes were counted for."""
    rows = []
    for own in counted:
        row: dict[str, Any] = {"devices": own["devices"]}
        kinds: tuple[Kind, ...] = ("tree", "all_reduce")
        for kind in kinds:
            seconds = one.seconds + sum_seconds(own, kind)
            row |= {
                f"{kind}_seconds_of_sum": seconds - one.seconds,
                f"{kind}_seconds_a_step": seconds,
                f"{kind}_tflop_per_second": own["devices"] * one.flops / seconds / 1e12,
                f"{kind}_efficiency": one.seconds / seconds,
            }
        rows.append(row)
    return rows


def model_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a scaling report's JSON has under "model"."""
    one = one_device(report)
    return {
        "of_config": report.get("config"),
        "one_device_seconds_a_step": one.seconds,
        "one_device_is_measured": one.is_measured,
        "one_device_is": one.is_from,
        "shards_a_device": report["counted"]["shards_a_device"],
        "nvlink_byte_per_second": NVLINK_BANDWIDTH,
        "network_byte_per_second": NETWORK_BANDWIDTH,
        "nvlink_latency_seconds": NVLINK_LATENCY,
        "network_latency_seconds": NETWORK_LATENCY,
        "gpus_a_node": GPUS_A_NODE,
        "rows": model_rows(one, report["counted"]["by_devices"]),
    }


def measured_panel(report: Mapping[str, Any]) -> ScalingPanel:
    """What the report's machine did: its shards stay, so it is strong scaling; all marks are filled."""
    tree = tuple(Point(row["devices"], row["tflop_per_second"], True) for row in report["rows"])
    library = tuple(
        Point(row["devices"], row["all_reduce_tflop_per_second"], True)
        for row in report["reductions"]
        if "all_reduce_tflop_per_second" in row
    )
    machine, shared = report["machine"], report["devices_share_processors"]
    caption = f"Measured: {report.get('config')}, {report['shards']} shards in all, on {machine['device']} devices"
    if shared:
        caption += f" that share {shared} processors: more devices bring no hardware, so the ideal is out of reach"
    series = (Series("tree", tree), *([Series("library's all-reduce", library)] if library else []))
    return ScalingPanel("measured, fixed batch", series, caption + ".")


def modelled_panel(report: Mapping[str, Any]) -> ScalingPanel:
    """1 to 128 GPUs; filled is at most the first mark, and only where a GPU was measured."""
    one, counted = one_device(report), report["counted"]
    rows = model_rows(one, counted["by_devices"])

    def series(name: str, kind: Kind) -> Series:
        points = [
            Point(row["devices"], row[f"{kind}_tflop_per_second"], one.is_measured and row["devices"] == 1)
            for row in rows
        ]
        return Series(name, tuple(points))

    filled = "one GPU is measured (filled), the rest is not (hollow)" if one.is_measured else "no GPU was measured"
    size = f"{counted['utterances_a_step']:g} utterances, {counted['flops_a_step'] / 1e12:.3g} TFLOP"
    caption = (
        f"Modelled: {report.get('config')}, weak scaling, {counted['shards_a_device']} shards ({size}) a GPU; {filled}. "
        f"One GPU {one.is_from}. Counted bytes over data sheet bandwidths: NVLink {NVLINK_BANDWIDTH / 1e9:g} GB/s in nodes of "
        f"{GPUS_A_NODE}, {NETWORK_BANDWIDTH / 1e9:g} GB/s a GPU between nodes; {1e6 * NVLINK_LATENCY:g} and "
        f"{1e6 * NETWORK_LATENCY:g} us a message; no overlap."
    )
    kinds = (series("tree", "tree"), series("library's all-reduce (ring)", "all_reduce"))
    return ScalingPanel("modelled, H100 links, fixed batch a GPU", kinds, caption)
