"""A program that is compiled once, whatever the number of devices that run it.

`jax.jit` compiles again for each device it is called on. That is time, 11 s a batch shape and device for the quickstart's gradient,
and on a GPU it is a risk as well: a second compilation may time its candidates otherwise and choose other kernels, so other bits.
Here the first device's executable is serialised in memory and loaded for the others: all run the same machine code.

JAX has the parts (`jax.experimental.serialize_executable`) but loads an executable on the device that it was compiled for; the
reader below puts another one in its place. An executable that came out of JAX's compilation cache cannot be serialised again, so
where that cache is on it does the sharing: on GPUs its entries are of any device anyway, and `share_cache_entries` makes it so on
CPUs. Where a version of JAX can do neither, the program is compiled for each device, as `jit` would.
"""

import io
import threading
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from jax._src import cache_key
from jax._src.compiler import get_compile_options
from jax.experimental import serialize_executable


class Program:
    """A function compiled for one device at a time.

    Args:
        function: of arrays.
        donate_argnums: arguments whose buffers the results take.
        devices: how many will call it; one alone goes by `jax.jit`.
    """

    def __init__(self, function: Callable[..., Any], *, donate_argnums: int | tuple[int, ...] = (), devices: int = 1):
        share_cache_entries()
        self.jit = jax.jit(function, donate_argnums=donate_argnums)
        self._is_shared = devices > 1
        self._loaded: dict[tuple[jax.Device, Hashable], Callable[..., Any]] = {}
        self._compiled: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, device: jax.Device, *args: Any, shape: Hashable = ()) -> Any:
        """Run it on a device.

        Args:
            device: that all arguments lie on.
            shape: what tells calls with other shapes of arguments apart.
        """
        if not self._is_shared:
            return self.jit(*args)
        call = self._loaded.get((device, shape))
        if call is not None:
            return call(*args)
        with self._lock:  # whoever comes second waits, and loads what the first compiled
            call = self._loaded[device, shape] = self._load(device, shape, args)
            return call(*args)

    def planned_bytes(self, device: jax.Device, *args: Any, shape: Hashable = ()) -> int | None:
        """Bytes of results and temporary arrays that XLA plans for this call, None where it does not say.

        Compiles the program if it is not yet; the call then finds it compiled.
        """
        call: Any = self.jit
        if self._is_shared:
            with self._lock:
                if (device, shape) not in self._loaded:
                    self._loaded[device, shape] = self._load(device, shape, args)
                call = self._loaded[device, shape]
        compiled = call.lower(*args).compile() if hasattr(call, "lower") else call
        plan = compiled.memory_analysis()
        if plan is None:
            return None
        return plan.output_size_in_bytes + plan.temp_size_in_bytes - plan.alias_size_in_bytes

    def _load(self, device: jax.Device, shape: Hashable, args: Any) -> Callable[..., Any]:
        if getattr(jax.config, "jax_compilation_cache_dir", None):
            return self.jit
        if shape not in self._compiled:
            compiled = self.jit.lower(*args).compile()
            self._compiled[shape] = _serialised(compiled)
            return compiled
        loaded = _loaded(self._compiled[shape], device)
        return self.jit if loaded is None else loaded


def share_cache_entries() -> None:
    """Let one entry of JAX's compilation cache serve all CPU devices; on GPUs it does."""
    original = getattr(cache_key, "_hash_serialized_compile_options", None)
    if original is None or getattr(original, "is_ours", False):
        return

    def hashed(hash_obj: Any, options: Any, **_: Any) -> Any:
        return original(hash_obj, options, strip_device_assignment=True)

    hashed.is_ours = True  # type: ignore[attr-defined]
    cache_key._hash_serialized_compile_options = hashed  # type: ignore[assignment]


def _serialised(compiled: Any) -> Any:
    """An executable as bytes and trees; None where this JAX cannot."""
    try:
        return serialize_executable.serialize(compiled)
    except (ValueError, NotImplementedError, AttributeError, RuntimeError):
        return None


def _loaded(serialised: Any, device: jax.Device) -> Callable[..., Any] | None:
    """The executable for another device; None where this JAX cannot."""
    if serialised is None:
        return None
    content, in_tree, out_tree = serialised
    try:
        unloaded, infos, no_kwargs = _Reader(content, device).load()
        return jax.stages.Compiled(unloaded.load(), [], in_tree.unflatten(infos), out_tree, no_kwargs=no_kwargs)
    except (AttributeError, TypeError, RuntimeError):
        return None


_JaxReader: Any = getattr(serialize_executable, "_JaxPjrtUnpickler", object)


class _Reader(_JaxReader):
    """JAX's reader of serialised executables, with another device than the one that is written there.

    It reads what this process wrote a moment ago, nothing from a disk.
    """

    def __init__(self, content: bytes, device: jax.Device):
        super().__init__(io.BytesIO(content), device.client, [device])
        self._device = device

    def persistent_load(self, pid: Any) -> Any:
        """What JAX writes by name: devices, clients, executables."""
        if pid[0] == "device":
            return self._device
        if pid[0] != "exec":
            return super().persistent_load(pid)
        options = get_compile_options(1, 1, np.array([[self._device.id]]))
        return self.backend.deserialize_executable(pid[1], self.execution_devices, options)
