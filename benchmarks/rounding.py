"""Rates of rounding: dsrun's kernel beside `lax.reduce_precision`, each mode, random bits, and QPyTorch.

Everything in the first table is timed in one process, a call of each contender in turn, round after round, so that a change
of the machine's load hits all of them. Ratios are of one round each, then the median over the rounds with the quartiles beside it: quote
ratios; rates are the machine's. All calls are compiled, warmed up, and waited for.

    python -m benchmarks.rounding                                        10 million values, 2 threads
    python -m benchmarks.rounding --qtorch-python ENVIRONMENT/bin/python   QPyTorch beside ours, processes alternating
    python -m benchmarks.rounding --gfloat                               gfloat, a reference in NumPy, on a tenth of the values

`lax.reduce_precision` is no rounding to a format (it flushes the format's subnormals, and knows IEEE-like formats only); it is the
fastest thing that XLA has of the kind. The contenders are those of `dsrun bench rounding`; here are the bounds and the peers. QPyTorch
compiles C++ when it is imported, so its environment needs torch, qtorch, ninja and a compiler; its CPU code is one loop in one
thread: `--threads 1` compares like with like.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dsrun.study.bench_rounding import FORMATS, HASH, REFERENCE, STOCHASTIC_FORMATS, THREEFRY, contenders
from dsrun.study.stopwatch import quartiles, ratios, take_turns

PEER_FORMATS = ("float16", "bfloat16", "float8_e4m3fn", "fixed_q2.14")
PEER = Path(__file__).parent / "peers" / "qpytorch_rounding.py"
PEER_CASES = tuple(f"{name} {mode}" for name in PEER_FORMATS for mode in ("ties_to_even", "stochastic"))


def measure_gfloat(values: int, rounds: int) -> list[float]:
    """Seconds of gfloat's rounding of so many values to binary16, nearest-even."""
    import gfloat
    import numpy as np
    from gfloat.formats import format_info_binary16

    x = np.random.default_rng(0).standard_normal(values, np.float32)
    return list(take_turns({"": lambda: gfloat.round_ndarray(format_info_binary16, x)}, rounds)[""])


def row(name: str, times: dict[str, list[float]], values: int, reference: str) -> dict[str, Any]:
    """Rate of a contender and its ratio to the reference's."""
    low, middle, high = (values / seconds / 1e6 for seconds in reversed(quartiles(times[name])))
    return {
        "name": name,
        "million_values_per_second": [round(rate, 1) for rate in (low, middle, high)],
        "rate_to_reference": [round(r, 3) for r in ratios(times[reference], times[name])],
    }


def claims(times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Issue 3, item 4: each bound and what was found for every case of it."""
    found = []
    for name in FORMATS:
        found.append(
            _claim(
                f"{name}: rate to {REFERENCE}", ratios(times[REFERENCE], times[f"{name} ties_to_even"]), at_least=0.8
            )
        )
    for name in STOCHASTIC_FORMATS:
        case = f"{name} stochastic"
        found.append(
            _claim(
                f"{name}: stochastic time to nearest's", ratios(times[case], times[f"{name} ties_to_even"]), at_most=1.5
            )
        )
        found.append(
            _claim(
                f"{name}: drawing threefry to rounding stochastically", ratios(times[THREEFRY], times[case]), at_least=4
            )
        )
    found.append(_claim("drawing threefry to drawing by the hash", ratios(times[THREEFRY], times[HASH]), at_least=4))
    return found


def _claim(
    name: str, found: list[float], *, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    held = found[1] >= at_least if at_least is not None else found[1] <= (at_most or 0)
    bound = f"at least {at_least}" if at_least is not None else f"at most {at_most}"
    return {"claim": name, "bound": bound, "quartiles": [round(value, 3) for value in found], "held": held}


def beside_qpytorch(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Ours and QPyTorch's times of the same cases, from processes that alternate."""
    sizes = [str(options.values), str(options.rounds), str(options.threads)]
    # Its import calls ninja, which lies beside the interpreter.
    path = f"{Path(options.qtorch_python).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    commands = {
        "dsrun": [sys.executable, "-m", "benchmarks.rounding", "--child", *sizes],
        "QPyTorch": [options.qtorch_python, str(PEER), *sizes],
    }
    times: dict[str, dict[str, list[float]]] = {name: {case: [] for case in PEER_CASES} for name in commands}
    for _ in range(options.processes):
        for name, command in commands.items():
            output = subprocess.run(
                command, check=True, capture_output=True, text=True, env=os.environ | {"PATH": path}
            ).stdout
            for case, seconds in json.loads(output.splitlines()[-1]).items():
                times[name][case] += seconds
    rows = []
    for case in PEER_CASES:
        ours, theirs = quartiles(times["dsrun"][case]), quartiles(times["QPyTorch"][case])
        rows.append(
            {
                "name": case,
                "dsrun_million_values_per_second": round(options.values / ours[1] / 1e6, 1),
                "qpytorch_million_values_per_second": round(options.values / theirs[1] / 1e6, 1),
                "qpytorch_time_to_ours": round(theirs[1] / ours[1], 2),
                "spread": {"dsrun": _spread(ours), "qpytorch": _spread(theirs)},
            }
        )
    return rows


def _spread(quarters: list[float]) -> float:
    """Distance of the quartiles as a share of the median."""
    return round((quarters[2] - quarters[0]) / quarters[1], 3)


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, as `--json` prints it."""
    import jax

    times = take_turns(contenders(options.values), options.rounds)
    found: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "values": options.values,
        "threads": options.threads,
        "rounds": options.rounds,
        "rows": [row(name, times, options.values, REFERENCE) for name in times],
        "claims": claims(times),
    }
    if options.gfloat:
        fewer = options.values // 10
        own = {"": measure_gfloat(fewer, max(options.rounds // 5, 3))}
        found["gfloat_million_values_per_second"] = row("", own, fewer, "")["million_values_per_second"]
    if options.qtorch_python:
        found["qpytorch"] = beside_qpytorch(options)
    return found


def show(found: dict[str, Any]) -> None:
    """The tables."""
    print(
        f"{found['values']:,} values, {found['threads']} threads, {found['rounds']} rounds, {found['device']}, jax {found['jax']}"
    )
    print(f"{'':40} million values a second   rate to {REFERENCE}\n{'':40} median    (quartiles)    median (quartiles)")
    for line in found["rows"]:
        low, middle, high = line["million_values_per_second"]
        lower, ratio_, upper = line["rate_to_reference"]
        print(f"{line['name']:40} {middle:7.0f} ({low:5.0f} {high:5.0f})   {ratio_:5.2f} ({lower:.2f} {upper:.2f})")
    print()
    for claim in found["claims"]:
        low, middle, high = claim["quartiles"]
        verdict = "held" if claim["held"] else "NOT HELD"
        print(f"{claim['claim']:62} {middle:6.2f} ({low:.2f} {high:.2f})  {claim['bound']}: {verdict}")
    if "gfloat_million_values_per_second" in found:
        print(f"\ngfloat, float16 ties_to_even: {found['gfloat_million_values_per_second'][1]} million values a second")
    if "qpytorch" in found:
        print(f"\n{'million values a second':40} dsrun   QPyTorch   its time to ours")
    for line in found.get("qpytorch", []):
        ours, theirs = line["dsrun_million_values_per_second"], line["qpytorch_million_values_per_second"]
        print(f"{line['name']:40} {ours:5.0f} {theirs:10.1f} {line['qpytorch_time_to_ours']:18.2f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=31, help="calls of each contender, after 2 that warm up")
    parser.add_argument("--threads", type=int, default=2, help="of XLA's pool and of torch's")
    parser.add_argument("--gfloat", action="store_true", help="gfloat too, on a tenth of the values")
    parser.add_argument("--qtorch-python", help="interpreter that has torch, qtorch and ninja beside it")
    parser.add_argument("--processes", type=int, default=3, help="how often the processes alternate with QPyTorch's")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", type=int, nargs=3, metavar=("VALUES", "ROUNDS", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    from dsrun.record.runtime import configure_runtime

    configure_runtime(pool_size=options.child[2] if options.child else options.threads)
    if options.child:
        values, rounds, _ = options.child
        print(json.dumps(take_turns(contenders(values, names=PEER_CASES), rounds)))
        return
    found = report(options)
    print(json.dumps(found, indent=2)) if options.json else show(found)


if __name__ == "__main__":
    main()
