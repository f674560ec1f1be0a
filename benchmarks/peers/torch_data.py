"""PyTorch's side of `benchmarks.data`: a plain DataLoader over soundfile and `torch.stft`; run by a Python that has torch.

What a user writes who has read the tutorial: `__getitem__` decodes and computes one clip's log power spectrogram in float32,
`collate_fn` pads with zeros, `num_workers` processes, two batches ahead each. The processes stay from epoch to epoch, which is to its
favour. No dsrun in here: torch has an environment of its own.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

WINDOW, HOP, FLOOR = 320, 160, 1e-14


class Clips(Dataset):
    def __init__(self, files, dtype):
        self.files, self.dtype = files, dtype
        self.window = torch.hann_window(WINDOW, periodic=True, dtype=dtype)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, number):
        samples, rate = soundfile.read(self.files[number], dtype="float32")
        signal = torch.from_numpy(samples).to(self.dtype)
        spectrum = torch.stft(signal, WINDOW, HOP, window=self.window, center=False, return_complex=True)
        power = spectrum.abs() ** 2 / (rate * (self.window**2).sum())
        power[1:-1] *= 2
        return torch.log(power + FLOOR).T.to(torch.float32)


def padded(clips):
    lengths = torch.tensor([len(clip) for clip in clips])
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--double", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(
        1
    )  # as in a worker process; with two the small transforms of 0 workers took ten times as long here
    problem = json.loads((options.folder / "problem.json").read_text())
    dtype = torch.float64 if options.double else torch.float32
    loaders = []
    for format, workers in problem["cases"]:
        more = {"prefetch_factor": 2, "persistent_workers": True} if workers else {}
        data = Clips(problem["files"][format], dtype)
        loader = DataLoader(data, batch_sampler=problem["batches"], collate_fn=padded, num_workers=workers, **more)
        loaders.append((f"{format}, {workers} workers", loader))
    print(json.dumps({"version": f"torch {torch.__version__}"}), flush=True)
    for number, _ in enumerate(sys.stdin):
        name, loader = loaders[number % len(loaders)]
        start, started, total = time.perf_counter(), time.process_time(), 0.0
        for features, lengths in loader:
            total += float(features[0, 0].sum()) + int(lengths.sum())
        seconds, processor = time.perf_counter() - start, time.process_time() - started
        print(json.dumps({"seconds": seconds, "cpu_seconds": processor, "case": name, "sum": total}), flush=True)


if __name__ == "__main__":
    main()
