"""PyTorch on a GPU, the peer of the GPU report: GRU layers, CTC and a Deep Speech 2 training step, as one worker.

    python torch_cuda.py --device cuda|cpu

Needs torch and numpy only. It prints a line of JSON when it is ready and answers each line on stdin: `prepare` with cases by name,
`time` with one of them, `forget`. Times on a GPU are between two CUDA events around all passes of a unit; on a CPU (to try the code)
a host clock's.

Formats are what a PyTorch user sets: float32 with `allow_tf32` off for both cuBLAS and cuDNN, tensorfloat32 with it on, and float16 and
bfloat16 as `.half()` and `.bfloat16()` of the whole module, CTC in float32. Each case says whether cuDNN takes it: its GRU has no
bfloat16 in many versions, and then torch runs a loop of its own.

Deep Speech 2 as in `dsrun.model`: two convolutions over frequency and time, batch normalisation, clipped rectifier; bidirectional
`nn.GRU` on packed sequences, directions summed, batch normalisation before each (nn.GRU hides the projection that dsrun normalises:
fewer features, in PyTorch's favour); a linear layer; SGD with Nesterov momentum and clipped gradients.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

DTYPES = {
    "float32": torch.float32,
    "tensorfloat32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
KERNELS = ((41, 11), (21, 11))
STRIDES = ((2, 2), (2, 1))


class Clock:
    """Seconds of passes on a device."""

    def __init__(self, device: str):
        self.device = torch.device(device)
        self.is_cuda = self.device.type == "cuda"

    def seconds(self, one_pass: Callable[[], Any], count: int) -> float:
        """Of one of `count` passes."""
        if not self.is_cuda:
            start = time.perf_counter()
            for _ in range(count):
                one_pass()
            return (time.perf_counter() - start) / count
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        before.record()
        for _ in range(count):
            one_pass()
        after.record()
        torch.cuda.synchronize()
        return before.elapsed_time(after) / 1e3 / count

    def passes(self, one_pass: Callable[[], Any], unit_seconds: float) -> int:
        """How many make a unit, after two that warm up."""
        self.seconds(one_pass, 2)
        return max(1, math.ceil(unit_seconds / self.seconds(one_pass, 1)))


class Cases:
    """What was prepared: by name, format, a pass, and how many make a unit."""

    def __init__(self, device: str):
        self.clock = Clock(device)
        self.calls: dict[str, tuple[str, Callable[[], Any], int]] = {}

    def prepare(self, cases: dict[str, dict[str, Any]], unit_seconds: float) -> dict[str, Any]:
        """Facts of each case, or its error."""
        return {name: self._prepared(name, unit_seconds, **case) for name, case in cases.items()}

    def _prepared(self, name: str, unit_seconds: float, kind: str, **case: Any) -> dict[str, Any]:
        format = case.get("format", "float32")
        use_format(format)
        try:
            if self.clock.is_cuda:
                torch.cuda.reset_peak_memory_stats()
            one_pass, facts = {"gru": gru, "ctc": ctc, "step": step}[kind](self.clock.device, **case)
            self.calls[name] = format, one_pass, self.clock.passes(one_pass, unit_seconds)
        except Exception as error:
            return {"error": reason(error)}
        if self.clock.is_cuda:
            facts["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        return facts

    def time(self, case: str) -> dict[str, float]:
        """Seconds of a pass."""
        if case not in self.calls:
            raise ValueError(f"{case} could not be prepared")
        format, one_pass, count = self.calls[case]
        use_format(format)
        return {"seconds": self.clock.seconds(one_pass, count)}

    def forget(self) -> None:
        """Give the cases' memory back."""
        self.calls.clear()
        if self.clock.is_cuda:
            torch.cuda.empty_cache()


def use_format(name: str) -> None:
    """float32 is float32, aloud: torch's default for convolutions and recurrent layers is TensorFloat-32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tensorfloat32"


def engine(x: torch.Tensor) -> str:
    """Who runs a recurrent layer on this tensor."""
    if x.device.type != "cuda":
        return "torch's CPU loop"
    return f"cuDNN {torch.backends.cudnn.version()}" if torch.cudnn_is_acceptable(x) else "torch's own loop, not cuDNN"


def gru(device: torch.device, **case: Any) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A bidirectional layer, time-major, directions summed; gradients to input and weights for "both"."""
    batch, frames, hidden = case["size"]
    dtype, is_both = DTYPES[case["format"]], case["pass"] == "both"
    torch.manual_seed(0)
    layer = nn.GRU(hidden, hidden, bidirectional=True).to(device, dtype).train(is_both)
    x = torch.randn(frames, batch, hidden, device=device, dtype=dtype, requires_grad=is_both)
    incoming = torch.randn_like(x, requires_grad=False)

    def one_pass() -> Any:
        with torch.set_grad_enabled(is_both):
            y, _ = layer(x)
            summed = y[..., :hidden] + y[..., hidden:]
        return torch.autograd.grad(summed, [x, *layer.parameters()], incoming) if is_both else summed

    return one_pass, {"engine": engine(x)}


def ctc(device: torch.device, problem: str, engine: str, result: str | None = None) -> tuple[Any, dict[str, Any]]:
    """Loss and gradient from logits. "cudnn": targets int32 on the host in one row, full lengths, labels below 256."""
    with np.load(problem) as arrays:
        logits = torch.tensor(arrays["logits"], device=device, requires_grad=True)
        labels, num_frames, num_labels = (
            torch.tensor(arrays[name]).long() for name in ("labels", "num_frames", "num_labels")
        )
    if engine == "cudnn":
        rows = [row[:count] for row, count in zip(labels, num_labels.tolist(), strict=True)]
        arguments = torch.cat(rows).int(), num_frames.int(), num_labels.int()
    else:
        arguments = labels.to(device), num_frames, num_labels  # torch reads the lengths on the host: a copy waits

    def one_pass() -> tuple[torch.Tensor, torch.Tensor]:
        log_probs = torch.log_softmax(logits, dim=2).transpose(0, 1)
        if engine == "cudnn":
            log_probs = log_probs.contiguous()  # time-major in memory, as its descriptor has it
        with torch.backends.cudnn.flags(enabled=engine == "cudnn"):
            loss = nn.functional.ctc_loss(log_probs, *arguments, blank=0, reduction="none")
        return loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]

    loss, gradient = one_pass()
    if result:
        np.savez(result, loss=loss.cpu().numpy(), gradient=gradient.cpu().numpy())
    return one_pass, {"engine": ctc_engine(logits, arguments, engine)}


def ctc_engine(logits: torch.Tensor, arguments: tuple[torch.Tensor, ...], wanted: str) -> str:
    """What torch itself says that it takes."""
    if wanted == "native":
        return "torch's own kernel"
    ask = getattr(torch, "_use_cudnn_ctc_loss", None)
    if ask is None:
        return "unknown: this torch does not say"
    is_cudnn = logits.device.type == "cuda" and ask(logits.detach().transpose(0, 1), *arguments, 0)
    return "cuDNN" if is_cudnn else "torch's own kernel: cuDNN does not take this problem"


# --- Deep Speech 2 ----------------------------------------------------------------------------------------------------------------


class DeepSpeech2(nn.Module):
    """Features [batch, frame, bin] and lengths (on the host) to log-probabilities [output_frame, batch, class]."""

    def __init__(self, settings: dict[str, Any]):
        super().__init__()
        self.hidden, self.clip = settings["hidden"], settings["relu_clip"]
        channels, bins, channels_in = settings["channels"], settings["num_bins"], 1
        self.convolutions, self.channel_norms = nn.ModuleList(), nn.ModuleList()
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            padding = (kernel[0] // 2, kernel[1] // 2)
            self.convolutions.append(nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=False))
            self.channel_norms.append(nn.BatchNorm2d(channels))
            channels_in, bins = channels, -(-bins // stride[0])
        inputs = [bins * channels] + [self.hidden] * (settings["layers"] - 1)
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) for size in inputs)
        self.layers = nn.ModuleList(nn.GRU(size, self.hidden, bidirectional=True) for size in inputs)
        self.output = nn.Linear(self.hidden, settings["num_classes"])

    def forward(self, features: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, lengths = features.transpose(1, 2)[:, None], num_frames
        for convolution, norm, stride in zip(self.convolutions, self.channel_norms, STRIDES, strict=True):
            x = norm(convolution(x)).clamp(0.0, self.clip)
            lengths = -(-lengths // stride[1])
            x = x * mask(lengths, x.shape[3], x)[:, None, None, :]
        x = x.flatten(1, 2).permute(2, 0, 1)
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            y = layer(packed._replace(data=norm(packed.data)))[0]
            packed = y._replace(data=y.data[:, : self.hidden] + y.data[:, self.hidden :])
        logits, _ = pad_packed_sequence(packed._replace(data=self.output(packed.data)))
        return torch.log_softmax(logits.float(), dim=2), lengths


def mask(lengths: torch.Tensor, frames: int, like: torch.Tensor) -> torch.Tensor:
    """1 in valid frames [batch, frame]."""
    return (torch.arange(frames)[None] < lengths[:, None]).to(like.device, like.dtype, non_blocking=True)


def step(device: torch.device, folder: str, format: str) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A training step on one batch that lies on the device."""
    with open(f"{folder}/settings.json") as file:
        settings = json.load(file)
    with np.load(f"{folder}/batch.npz") as arrays:
        features = torch.tensor(arrays["features"]).to(device, DTYPES[format])
        labels = torch.tensor(arrays["labels"]).long().to(device)
        num_frames, num_labels = (torch.tensor(arrays[name]).long() for name in ("num_frames", "num_labels"))
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model = DeepSpeech2(settings).to(device, DTYPES[format])
    optimizer = torch.optim.SGD(
        model.parameters(), settings["learning_rate"], momentum=settings["momentum"], nesterov=True
    )

    def one_pass() -> torch.Tensor:
        log_probs, output_frames = model(features, num_frames)
        losses = nn.functional.ctc_loss(
            log_probs, labels, output_frames, num_labels, blank=0, reduction="none", zero_infinity=True
        )
        loss = losses.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
        optimizer.step()
        return loss

    loss = float(one_pass().detach())
    parameters = sum(p.numel() for p in model.parameters())
    return one_pass, {"engine": engine(features), "parameters": parameters, "loss": loss}


def reason(error: Exception) -> str:
    """An exception as one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"[:300]


def main() -> None:
    parser = argparse.ArgumentParser(description="PyTorch's side of the GPU report.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device = parser.parse_args().device
    ready = {
        "version": f"torch {torch.__version__}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    if device == "cuda":
        ready["device"] = torch.cuda.get_device_name(0)
    print(json.dumps(ready), flush=True)
    cases = Cases(device)
    handlers: dict[str, Callable[..., Any]] = {"prepare": cases.prepare, "time": cases.time, "forget": cases.forget}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request.pop("do")](**request) or {}
        except Exception as error:
            answer = {"error": reason(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
