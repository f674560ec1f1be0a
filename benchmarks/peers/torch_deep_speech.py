"""PyTorch CPU twin of dsrun's network and training step, to be measured against. Needs torch and numpy only.

The same shape and the same work as a PyTorch user would write it: frame stacking, a linear map and a clipped
rectifier; N bidirectional `nn.GRU` layers with their directions summed; a linear layer; `ctc_loss`; gradient clipping
and the same optimizer. Sequences are packed, so that the backward direction starts at each utterance's own end, batch
normalisation sees real frames only, and nothing is computed for padding.

Where it differs: `nn.GRU` hides its input projection, so the normalisation that dsrun applies to the projection of
each gate stands on the layer's input here (fewer features to normalise: in PyTorch's favour). Empty rows of a batch
are left out, since packing refuses them.

Started by `benchmarks/train_step.py` as a process of its own: folder with `settings.json` and `batches.npz`, one line
of JSON on stdout when ready, then one for each line on stdin, holding the seconds of a pass over all batches.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


class OnFrames(nn.Module):
    """Normalisation of the features of valid frames [frame, feature]; "none" changes nothing."""

    def __init__(self, kind: str, features: int):
        super().__init__()
        kinds = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        self.norm = kinds[kind](features) if kind in kinds else nn.Identity()

    def forward(self, packed: PackedSequence) -> PackedSequence:
        return packed._replace(data=self.norm(packed.data))


class DeepSpeech(nn.Module):
    """Features [batch, frame, bin] and lengths to log-probabilities [output_frame, batch, class] and lengths."""

    def __init__(self, settings: dict):
        super().__init__()
        self.settings = settings
        hidden, directions = settings["hidden"], 2 if settings["direction"] == "bidirectional" else 1
        front = settings["front_end"]
        self.front_end = nn.Linear(front["stack"] * settings["num_bins"], front["hidden"])
        self.front_norm = OnFrames(settings["normalization"], front["hidden"])
        inputs = [front["hidden"]] + [hidden] * (settings["layers"] - 1)
        self.norms = nn.ModuleList(OnFrames(settings["normalization"], size) for size in inputs)
        self.layers = nn.ModuleList(nn.GRU(size, hidden, bidirectional=directions == 2) for size in inputs)
        self.dropout = nn.Dropout(settings["dropout"])
        self.output = nn.Linear(hidden, settings["num_classes"])

    def forward(self, features: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        front, hidden = self.settings["front_end"], self.settings["hidden"]
        frame = torch.arange(features.shape[1])
        features = features.masked_fill((frame[None] >= num_frames[:, None])[:, :, None], 0.0)
        output_frames = -(-num_frames // front["stride"])
        windows = _stacked(features, front["stack"], front["stride"])
        x = pack_padded_sequence(windows, output_frames, batch_first=True, enforce_sorted=False)
        x = self.front_norm(x._replace(data=self.front_end(x.data)))
        x = x._replace(data=x.data.clamp(0.0, self.settings["relu_clip"]))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            y = layer(norm(x))[0]
            summed = y.data[:, :hidden] + y.data[:, hidden:] if layer.bidirectional else y.data
            x = y._replace(data=self.dropout(summed))
        logits, _ = pad_packed_sequence(x._replace(data=self.output(x.data)))
        return torch.log_softmax(logits, dim=2), output_frames


def _stacked(features: torch.Tensor, stack: int, stride: int) -> torch.Tensor:
    """Every `stride`-th window of `stack` frames, the first starting stack // 2 before the utterance."""
    output_frames = -(-features.shape[1] // stride)
    padded = nn.functional.pad(features, (0, 0, stack // 2, stack + stride))
    stop = stride * (output_frames - 1) + 1
    return torch.cat([padded[:, i : i + stop : stride] for i in range(stack)], dim=2)


def make_optimizer(model: nn.Module, settings: dict) -> torch.optim.Optimizer:
    """The config's optimizer at its base learning rate; a schedule costs nothing and is left out."""
    rate, decay = settings["learning_rate"], settings["weight_decay"]
    if settings["kind"] == "sgd":
        momentum = settings["momentum"]
        nesterov = settings["nesterov"] and momentum > 0
        return torch.optim.SGD(model.parameters(), rate, momentum=momentum, nesterov=nesterov, weight_decay=decay)
    betas = settings["beta1"], settings["beta2"]
    return torch.optim.AdamW(model.parameters(), rate, betas=betas, eps=settings["epsilon"], weight_decay=decay)


def train_step(
    model: DeepSpeech, optimizer: torch.optim.Optimizer, batch: list[np.ndarray], clip_norm: float | None
) -> float:
    """One update on the mean over the utterances of -log p(labels); returns it."""
    features, num_frames, labels, num_labels = (torch.from_numpy(x) for x in batch)
    log_probs, output_frames = model(features, num_frames)
    losses = nn.functional.ctc_loss(
        log_probs, labels, output_frames, num_labels, blank=0, reduction="none", zero_infinity=True
    )
    loss = losses.mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return loss.item()


def load_batches(path: Path) -> list[list[np.ndarray]]:
    """Batches as dsrun's driver wrote them, without empty rows; lengths int64 as packing wants them."""
    with np.load(path) as arrays:
        count = sum(name.startswith("features_") for name in arrays)
        names = ("features", "num_frames", "labels", "num_labels")
        batches = [[arrays[f"{name}_{i}"] for name in names] for i in range(count)]
    kept = []
    for batch in batches:
        features, *rest = (x[batch[1] > 0] for x in batch)
        kept.append([features, *(x.astype(np.int64) for x in rest)])
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description="PyTorch peer of a dsrun training step.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    torch.set_num_threads(options.threads)
    settings = json.loads((options.folder / "settings.json").read_text())
    torch.manual_seed(settings["seed"])
    model = DeepSpeech(settings["model"])
    optimizer = make_optimizer(model, settings["optimizer"])
    batches = load_batches(options.folder / "batches.npz")

    def one_pass() -> dict[str, float]:
        start = time.perf_counter()
        losses = [train_step(model, optimizer, batch, settings["clip_norm"]) for batch in batches]
        return {"seconds": time.perf_counter() - start, "loss": sum(losses) / len(losses)}

    one_pass()
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"version": f"torch {torch.__version__}", "parameters": parameters}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(one_pass()), flush=True)


if __name__ == "__main__":
    main()
