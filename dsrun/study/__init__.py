"""Study: what arithmetic does to numbers, shown small enough to be checked by hand.

* `accumulate`: a small number added many times, in any format and rounding.
* `cartoon`: gradient descent on one weight, and the region in which it stalls.
* `format_table`: what each format can hold; no JAX.
* `magnitudes`: what a watched step of a run left on disk; no JAX.
* `plots`, `cartoon_exhibit`, `accumulate_exhibit`: the figures of these, SVG or PNG, the same bytes again; no JAX.
* `magnitude_histograms`, `swallowed_updates`, `underflow_overflow`, `underflow_by_layer`, `loss_scale`: a report's figures about numbers,
  from what watched steps left (`watched`); no JAX.
* `ctc_posterior`, `utterances`, `bytes_and_time`, `determinism_strip`, `flops_against_devices`: what was heard and read, what it cost, and
  whether it was the same again; from `posteriors.npz`, results, `costs.json`, hashes; no JAX (`datasheets` neither).
* `bench_gru`, `bench_ctc`, `bench_rounding`: how fast those are here, as shares of what the machine can do (`ceilings`, measured in turn
  with them by `stopwatch`), from operations and bytes counted by formula (`flops`). `bench_sizes` and `host` need no JAX.

All take plain arguments and return numbers, and `plots` draws them; none reads a config or a corpus. What reads a run (`magnitudes`)
takes its folder and never live objects. The commands are in `cli_study.py` and `cli_bench.py`.
"""
