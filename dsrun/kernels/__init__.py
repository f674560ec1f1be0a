"""Kernels for NVIDIA GPUs, in Pallas Mosaic GPU, for loops that XLA runs as one kernel launch after another.

Each kernel replaces a scan elsewhere in this package, which stays: it is the fallback, what runs on a CPU, and the
oracle of the kernel's tests. A kernel's docstring says which bits it shares with the scan. This room takes arrays and
knows nothing of the rooms above it; who calls it chooses, by the argument `target`.

* `ctc`: both loops of the CTC lattice in one launch, a thread block an utterance; taken where `kernels.ctc: mosaic` asks for it,
  or `kernels.ctc: auto` and an H100 has shown it (`dsrun.ctc.choice`).
* `gru`: one frame of a GRU layer, products, gates and state in one launch; for the scan over the frames. Hopper only. Slower than
  the scan, and called by its tests and benchmarks alone.
* `target`: where a kernel runs, and rules learned the hard way.

What was verified: the numbers, in Mosaic's interpreter on a CPU, and that the kernels lower for CUDA on a machine without a
GPU, which stops before PTX; both in the tests. On one H100 with JAX 0.11.2, by `scripts/gpu_report.sh`: numbers and speed
(docs/MEASUREMENTS.md, GPU). No other GPU has run them. Mosaic's interface is experimental and changes with JAX's versions: tried
with 0.10.2 and 0.11.2.

The call is opaque to XLA's partitioner: on several devices call it on each device's own shard.
"""
