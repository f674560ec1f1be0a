"""Workers: threads that decode, compute features and augment side by side, and whose number changes no bit.

Threads and not processes: libsndfile, soxr, NumPy's FFT and its elementwise functions give up the interpreter's lock while they run, a
clip then need not be copied from one process to another, and a process forked beside JAX may hang. What stays under the lock is
the bookkeeping of an utterance, some tens of microseconds.

Results come in the order of the items, whoever was done first, and each is a function of its item alone: nothing random here, what
augmentation draws is keyed by (seed, epoch, id). Only a few items are under way at once, so a million of them are not in memory.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # items under way for each worker: so many that nobody waits for the slowest, so few that memory is bounded


class Workers:
    """So many threads, started when there is work for them; with 0 or 1 the caller does it."""

    def __init__(self, count: int = 0):
        self.count = count
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`function` of each item, in the order of the items.

        An exception is raised at the place of its item; items that nobody has begun are then left alone, as they are when the
        consumer leaves early.
        """
        if self.count <= 1:
            yield from map(function, items)
            return
        pool, left = self._threads(), iter(items)
        # Before the first result is asked for: whoever takes the results one by one must not make the threads take turns.
        under_way: deque[Future[Result]] = deque(
            pool.submit(function, item) for item in islice(left, AHEAD * self.count)
        )
        try:
            while under_way:
                result = under_way.popleft().result()
                under_way.extend(pool.submit(function, item) for item in islice(left, 1))
                yield result
        finally:
            for future in under_way:
                future.cancel()

    def close(self) -> None:
        """Wait for what is under way, which after an error or a Ctrl-C may still write files, and begin nothing more."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:  # evaluation and prefetching may both come first
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="dsrun-data")
            return self._pool


def prefetch(items: Callable[[], Iterator[Item]], depth: int) -> Iterator[tuple[Item, float]]:
    """Items made by a background thread, at most `depth` ahead, each with the seconds that the consumer waited for it.

    An exception in the thread is raised in the consumer. Leaving the loop early ends the thread. Depth 0 uses no thread.
    """
    if depth == 0:
        yield from _without_thread(items())
        return
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(entry: tuple[str, object]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items():
                if not put(("item", item)):
                    return
            put(("end", None))
        except BaseException as error:
            put(("error", error))

    thread = threading.Thread(target=work, name="dsrun-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            started = time.monotonic()
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value, time.monotonic() - started
    finally:
        stopped.set()
        thread.join()


def _without_thread(items: Iterator[Item]) -> Iterator[tuple[Item, float]]:
    started = time.monotonic()
    for item in items:
        yield item, time.monotonic() - started
        started = time.monotonic()
