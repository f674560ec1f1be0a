"""Study: what arithmetic does to numbers, shown small enough to be checked by hand.

* `accumulate`: a small number added many times, in any format and rounding.
* `cartoon`: gradient descent on one weight, and the region in which it stalls.
* `format_table`: what each format can hold; no JAX.
* `magnitudes`: what a watched step of a run left on disk; no JAX.
* `plots`, `cartoon_exhibit`, `accumulate_exhibit`: the figures of these, SVG or PNG, the same bytes again; no JAX.
* `run_record`, `run_state`, `costs`: what a run folder says, read and decided once; `groups`: runs that differ in the seed alone; no JAX.
* `statistics`, `compare`: error rates with intervals, paired differences, and everything else beside each other; no JAX.
* `report`, `report_page`, `exhibit`, `figure_files`, `styles`, `number_words`, `foreign_text`: the report's frame, and how things are drawn
  and worded everywhere; `verdict_strip`, `learning_curves`, `error_rates`: its first figures; no JAX.
* `watching`, `replay`, `tensorboard`, `results_record`, `results_page`: runs as they fill, for trackers, and as a page of results; no JAX.
* `magnitude_histograms`, `swallowed_updates`, `underflow_overflow`, `underflow_by_layer`, `loss_scale`: a report's figures about numbers,
  from what watched steps left (`watched`); no JAX.
* `ctc_posterior`, `utterances`, `bytes_and_time`, `determinism_strip`, `flops_against_devices`: what was heard and read, what it cost, and
  whether it was the same again; from `posteriors.npz`, results, `costs.json`, hashes; no JAX (`datasheets` neither).
* `bench_gru`, `bench_ctc`, `bench_rounding`: how fast those are here, as shares of what the machine can do (`ceilings`, measured in turn
  with them by `stopwatch`), from operations and bytes counted by formula (`flops`). `bench_sizes` and `host` need no JAX.

All take plain arguments; none reads a config or a corpus. What reads a run takes its folder, or what `run_record` made of it, and never
live objects. The commands are on the roof (`cli_study.py`, `cli_bench.py`, `cli_compare.py`, `cli_report.py`, ...).
"""
