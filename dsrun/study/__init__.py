"""Study: what arithmetic does to numbers, shown small enough to be checked by hand.

* `accumulate`: a small number added many times, in any format and rounding.
* `cartoon`: gradient descent on one weight, and the region in which it stalls.
* `format_table`: what each format can hold; no JAX.
* `magnitudes`: what a watched step of a run left on disk; no JAX.
* `plots`: the figures of these, SVG or PNG, the same bytes again.

The first three take plain arguments and return numbers, the last draws them; none reads a config, a corpus or a network. What
reads a run (`magnitudes`) takes its folder and never live objects. The commands are in `cli_study.py`.
"""
