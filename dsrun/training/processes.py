"""Several processes, on one node or many, that train one model together.

One process drives all devices of its machine by itself, so a single node needs none of this. With several, JAX's own runtime
connects them (`jax.distributed`: a coordinator in process 0; NCCL or Gloo between devices). Each loads the data, works on its own
shards and keeps a copy of the state; process 0, the leader, writes the run folder. The tree of the sum is the same, so the bits are
those of one process.

What processes have to say to one another beside sums goes as texts through the coordinator, in numbered rounds in which everyone
says one thing: whether it could start, what it starts from (a difference is refused), from which step, and at every digest what the
state's hash is. A process that fails before training says so, and the others end with its message. One that dies later takes the
others with it, within the coordinator's heartbeat: the launcher looks at the first failure and starts all again.

A signal reaches processes at different moments. So the wish to stop is agreed on: with every step goes the maximum of all wishes,
which is read one step later, when it costs no waiting. With it goes whether anyone could not use a recording; what is wrong with
which is said only then.

The coordinator takes connections from anyone. On one node it is bound to the loopback address; between nodes the network must be
trusted.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from dsrun.errors import EXIT_INTERRUPTED, EXIT_STOPPED, DsrunError, UsageError
from dsrun.training.exchange import collective
from dsrun.training.stop import Stopped

WAIT_SECONDS = 3600.0  # for the slowest process to load its data
HEARD_SECONDS = 60.0  # for the others to hear of a failure
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Group:
    """How a process finds the others: all three, or nothing where JAX finds out (SLURM, Open MPI, Kubernetes)."""

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


class LostProcessError(DsrunError):
    """Another process ended, so this one cannot go on; the same command goes on from the last checkpoint."""

    exit_code = EXIT_STOPPED


class OtherProcessError(DsrunError):
    """Another process could not start; the text is its own, and so is the exit code."""

    def __init__(self, text: str, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code


class Processes:
    """This process among all; alone, every question has its answer at once."""

    def __init__(self, index: int = 0, count: int = 1):
        self.index, self.count = index, count
        self._round = 0
        self._is_known = False  # what went wrong, to the others
        self._are_training = False

    @property
    def is_leader(self) -> bool:
        """The one that writes."""
        return self.index == 0

    @property
    def is_alone(self) -> bool:
        """There is no other."""
        return self.count == 1

    def say(self, value: Any) -> list[Any]:
        """What every process says in this round, JSON's values in order of processes.

        Raises:
            OtherProcessError, Stopped: another process failed instead; text and exit code are its own.
            LostProcessError: another process says nothing.
        """
        if self.is_alone:
            return [value]
        texts = self._exchange({"value": value})
        failures = [f"process {i}: {found['error']}" for i, found in enumerate(texts) if "error" in found]
        if failures:
            self._is_known = True
            with suppress(LostProcessError):
                _set(f"dsrun/heard/{self.index}", "")
            codes = [found["exit_code"] for found in texts if "error" in found]
            text = "\n".join(failures)
            raise (
                Stopped(codes[0], text)
                if codes[0] in (EXIT_STOPPED, EXIT_INTERRUPTED)
                else OtherProcessError(text, codes[0])
            )
        return [found["value"] for found in texts]

    @contextmanager
    def telling_failures(self) -> Iterator[None]:
        """An error inside is told to the others, who wait for this process's next words before training begins.

        The coordinator ends with the leader, so it gives them time to hear; in training they notice by themselves.
        """
        try:
            yield
        except BaseException as error:
            if not (self.is_alone or self._is_known or isinstance(error, LostProcessError)):
                with suppress(LostProcessError):
                    self._post(
                        {"error": str(error) or type(error).__name__, "exit_code": getattr(error, "exit_code", 1)}
                    )
                    if not self._are_training:
                        self._wait_until_heard()
            raise

    def begin_training(self, devices: list[jax.Device]) -> None:
        """Connect all devices; from now on nobody waits for words that a failure could stand in for.

        Gloo gives up after 30 s if some process is late at the first exchange, which in training comes after minutes of compilation that
        do not take equally long everywhere. So the first exchange is this one, of nothing, when all have just said that they are ready.
        """
        if not self.is_alone:
            agree = StepAgreement(devices)
            agree(0), agree(0)  # the second waits for the first
        self._are_training = True

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """See that all processes agree.

        Raises:
            UsageError: they do not; names what differs and where.
        """
        said = self.say(dict(facts))
        names = sorted(set().union(*said))
        differing = [name for name in names if any(own.get(name) != said[0].get(name) for own in said)]
        if differing:
            lines = [f"  {name}: {self._parties([own.get(name) for own in said])}" for name in differing[:10]]
            self._is_known = True
            raise UsageError(
                "the processes do not train the same thing, so nothing was started:\n"
                + "\n".join(lines)
                + "\nGive all of them the same code, config, data and packages."
            )

    def leave(self) -> None:
        """Training is over: nobody waits for anybody any more."""
        if not self.is_alone:
            jax.distributed.shutdown()

    def _parties(self, values: list[Any]) -> str:
        texts = [json.dumps(value) for value in values]
        parties = {text: [str(i) for i, own in enumerate(texts) if own == text] for text in dict.fromkeys(texts)}
        return "; ".join(f"{text} in process {', '.join(who)}" for text, who in parties.items())

    def _exchange(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        self._post(message)
        number = self._round
        try:
            return [
                json.loads(_store().blocking_key_value_get(f"dsrun/{number}/{i}", int(1000 * WAIT_SECONDS)))
                for i in range(self.count)
            ]
        except jax.errors.JaxRuntimeError as error:
            raise LostProcessError(f"another process of this run says nothing: {_first_line(error)}") from error

    def _post(self, message: Mapping[str, Any]) -> None:
        self._round += 1
        _set(f"dsrun/{self._round}/{self.index}", json.dumps(message))

    def _wait_until_heard(self) -> None:
        for other in range(self.count):
            if other != self.index:
                with suppress(jax.errors.JaxRuntimeError):
                    _store().blocking_key_value_get(f"dsrun/heard/{other}", int(1000 * HEARD_SECONDS))


def join(group: Group | None, *, devices: int | None) -> Processes:
    """Meet the other processes; before anything else touches JAX's devices.

    Args:
        group: None for a process alone.
        devices: of this process; JAX would take one GPU a process where a cluster starts it.

    Raises:
        UsageError: the others cannot be found.
    """
    if group is None:
        return Processes()
    # JAX would take SIGTERM for itself; ours ends in an agreed step.
    jax.config.update("jax_enable_preemption_service", False)
    options: dict[str, Any] = {}
    if group.coordinator and group.coordinator.rpartition(":")[0].strip("[]") in LOOPBACK:
        options["coordinator_bind_address"] = group.coordinator
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.processes,
            group.process,
            local_device_ids=None if devices is None else list(range(devices)),
            **options,
        )
    except (ValueError, RuntimeError) as error:  # JaxRuntimeError is one
        how = (
            f"--coordinator {group.coordinator}, process {group.process} of {group.processes}"
            if group.coordinator
            else "--distributed finds SLURM, Open MPI and Kubernetes; else write --coordinator, --processes and --process"
        )
        raise UsageError(f"the processes of this run did not meet: {_first_line(error)} ({how}).") from error
    state = _distributed_state()
    return Processes(state.process_id, state.num_processes)


class StepAgreement:
    """Of all processes the strongest wish to stop, one step late, and whether a step's batch lacks rows.

    Args:
        devices: of all processes.
    """

    def __init__(self, devices: list[jax.Device]):
        self._maximum = collective(devices, lambda x: jax.lax.pmax(x, "device"))
        self._own = [device for device in devices if device.process_index == jax.process_index()]
        self._before: Any = None

    def __call__(self, exit_code: int, *, lacks_rows: bool = False) -> int:
        """Give this process's wish after a step, get everybody's after the step before."""
        said = np.array([exit_code, lacks_rows], np.int32)
        now = self._maximum([jax.device_put(said, device) for device in self._own])
        before, self._before = self._before, now[0]
        return 0 if before is None else int(np.asarray(before)[0])

    def has_lack(self) -> Callable[[], bool]:
        """A question to be asked later, when it costs no waiting: does the batch of the step just given lack a row anywhere?"""
        latest = self._before
        return lambda: bool(np.asarray(latest)[1])


@contextmanager
def noticing_lost_processes(processes: Processes) -> Iterator[None]:
    """What JAX reports when another process is gone becomes one message."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if processes.is_alone:
            raise
        raise LostProcessError(
            f"process {processes.index}: another process of this run is gone, or the network between them ({_first_line(error)}). "
            "Its own message says why. The same command goes on from the last checkpoint."
        ) from error


def is_joined() -> bool:
    """This process belongs to a group, whose runtime would wait for the others if it ended in order."""
    return _distributed_state().client is not None


def _set(key: str, value: str) -> None:
    try:
        _store().key_value_set(key, value)
    except jax.errors.JaxRuntimeError as error:
        raise LostProcessError(f"the coordinator (process 0) is gone: {_first_line(error)}") from error


def _store() -> Any:
    return _distributed_state().client


def _distributed_state() -> Any:
    from jax._src import distributed

    return distributed.global_state


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
