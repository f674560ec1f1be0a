"""Progress of a run: a live panel on a terminal, otherwise a plain line every 30 seconds.

Everything goes to stderr, so that stdout holds results alone. A batch job's log must move: a progress bar that prints once,
at the end, looks like a hang to whoever watches it.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, TextIO

from dsrun.record import LineFile

LINE_SECONDS = 30.0
RATE_WINDOW = 50  # steps over which speed is averaged


class Progress(AbstractContextManager):
    """Shows steps as they come.

    Args:
        total_steps: steps of the whole run, for the time left.
        log: gets every plain line too, whatever the terminal shows.
        stream: stderr unless a test passes its own.
    """

    def __init__(self, *, total_steps: int, log: LineFile | None = None, stream: TextIO | None = None):
        self.total_steps, self.log, self.stream = total_steps, log, stream or sys.stderr
        self._recent: deque[tuple[float, int, float, float]] = deque(maxlen=RATE_WINDOW)
        self._last_line = time.monotonic()
        self._last_eval: dict[str, Any] = {}
        self._last_watch: dict[str, Any] = {}
        self._sample = ""
        self._live: Any = None
        if self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self.stream), refresh_per_second=4, transient=True)

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def message(self, text: str) -> None:
        """One line for people, now."""
        if self._live:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            self._print(text)
        self._to_log(text)

    def evaluation(self, summary: Mapping[str, Any], *, sample: tuple[str, str] | None) -> None:
        """A dev result, with one utterance's reference and hypothesis."""
        self._last_eval = dict(summary)
        self._sample = f"ref: {sample[0]} | hyp: {sample[1]}" if sample else ""

    def watched(self, updates: Mapping[str, Any]) -> None:
        """Figures of a watched step's updates."""
        self._last_watch = dict(updates)

    def step(
        self, number: int, record: Mapping[str, float], *, utterances: int, audio_seconds: float, wait_seconds: float
    ) -> None:
        """One finished step with what it processed and how long it waited for data."""
        self._recent.append((time.monotonic(), utterances, audio_seconds, wait_seconds))
        now = time.monotonic()
        if self._live:
            self._live.update(self._panel(number, record))
        if now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            line = "  ".join(f"{name} {value}" for name, value in self._figures(number, record).items())
            self._to_log(line)
            if not self._live:
                self._print(line)

    def _figures(self, number: int, record: Mapping[str, float]) -> dict[str, str]:
        figures = {
            "step": f"{number}/{self.total_steps}",
            "loss": f"{record['loss']:.2f}",
            "grad norm": f"{record['grad_norm']:.1f}",
            "rate": f"{record['learning_rate']:.2e}",
            "blank": f"{record['blank_share']:.0%}",
        }
        if len(self._recent) > 1 and self._recent[-1][0] > self._recent[0][0]:
            seconds = self._recent[-1][0] - self._recent[0][0]
            later = list(self._recent)[1:]
            per_second = len(later) / max(seconds, 1e-9)
            left = max(self.total_steps - number, 0) / per_second
            figures |= {
                "utt/s": f"{sum(r[1] for r in later) / seconds:.1f}",
                "audio s/s": f"{sum(r[2] for r in later) / seconds:.0f}",
                "data wait": f"{sum(r[3] for r in later) / seconds:.1%}",
                "eta": f"{left / 60:.1f} min",
            }
        if "changed_share" in self._last_watch:
            figures["updates that changed a weight"] = f"{self._last_watch['changed_share']:.1%}"
        if self._last_eval:
            figures["dev CER"] = f"{self._last_eval['cer']:.3f}"
        return figures

    def _panel(self, number: int, record: Mapping[str, float]) -> Any:
        from rich.panel import Panel
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for name, value in self._figures(number, record).items():
            table.add_row(name, value)
        if self._sample:
            table.add_row("decoded", self._sample)
        return Panel(table, title="dsrun train", expand=False)

    def _print(self, text: str) -> None:
        """To the stream; where nobody reads it any more, training goes on and the log has the lines."""
        try:
            print(text, file=self.stream, flush=True)
        except (OSError, ValueError):
            self.stream = open(os.devnull, "w")  # noqa: SIM115

    def _to_log(self, text: str) -> None:
        if self.log:
            self.log.append(f"{time.strftime('%Y-%m-%dT%H:%M:%S')}  {text}")
