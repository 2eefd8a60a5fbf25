"""Where computation happens: device, threads, and the fast float32 matrix product, chosen by a check of its error."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from xmbench.types import Array

# Largest error, relative to the largest entry, that a float32 product of 256-long rows may show (measured: 1e-7 to 1e-6;
# true bfloat16 shows 2e-3).
FLOAT32_ERROR = 1e-5


def choose_device(wanted: str = "auto") -> str:
    """The device to run on: `wanted`, or for "auto" CUDA, then Apple's MPS, then the CPU, whichever is there first.

    Raises:
        ValueError: a name that torch does not know, or CUDA where there is none.
    """
    import torch

    if wanted != "auto":
        try:
            torch.device(wanted)
        except RuntimeError as error:
            raise ValueError(f"device must be one that torch knows, such as cpu or cuda:0, got {wanted!r}: {error}") from None
        if wanted.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {wanted!r} must exist, but torch {torch.__version__} sees no CUDA; use --devices auto")
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def found_devices() -> tuple[str, ...]:
    """All GPUs that torch sees, or the CPU."""
    import torch

    if torch.cuda.is_available():
        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    return (choose_device(),)


def choose_devices(wanted: Sequence[str] | None, per_device: int, jobs: int | None, cores: int) -> tuple[str, ...]:
    """The device of every job at a time.

    Args:
        wanted: torch devices; None takes all that are found.
        per_device: jobs at a time on one of several devices, or on a GPU.
        jobs: at a time; None for as many as the devices take.
        cores: jobs at a time where the CPU is the only device.

    Raises:
        ValueError: a device that is not there, or more jobs than the devices are to take.
    """
    devices = found_devices() if wanted is None else tuple(choose_device(name) for name in wanted)
    if devices == ("cpu",):
        return devices * (jobs or cores)
    places = devices * per_device
    if jobs is not None and jobs > len(places):
        on = ", ".join(devices)
        raise ValueError(f"--jobs must be at most {len(places)}, {per_device} on each of {on}, got {jobs}; raise --per-device")
    return places[:jobs]


@cache
def fast_matmul() -> str:
    """Switch torch's CPU float32 product to oneDNN where that is exact to float32; return the name of what was chosen.

    The switch is named after bfloat16, and on processors with AMX it permits real bfloat16 arithmetic; on others it selects
    oneDNN's float32 kernels, about twice as fast as the default. So the error against float64 decides. Process-wide.
    """
    import torch

    backends: Any = torch.backends
    matmul = backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    error = _product_error()
    if error <= FLOAT32_ERROR:
        return f"onednn-float32 (error {error:.0e})"
    matmul.fp32_precision = before
    return f"default-float32 (onednn error {error:.0e})"


def _product_error() -> float:
    """Largest error of torch's float32 products (forward, both transposed forms) relative to the largest entry."""
    import torch

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 256, 256)) / 16
    worst = 0.0
    for left, right in ((a, b), (a.T, b), (a, b.T)):
        exact = left @ right
        got = torch.from_numpy(left).float() @ torch.from_numpy(right).float()
        worst = max(worst, float(np.abs(got.numpy() - exact).max() / np.abs(exact).max()))
    return worst


def matmul(a: Array, b: Array) -> Array:
    """The product a @ b of two matrices of one float type, through torch's CPU kernels, (n, k) by (k, p)."""
    import torch

    fast_matmul()
    with torch.inference_mode():
        return (torch.from_numpy(np.ascontiguousarray(a)) @ torch.from_numpy(np.ascontiguousarray(b))).numpy()


@cache
def _c_library() -> Any:
    """glibc, or None where there is another C library."""
    import ctypes

    try:
        library = ctypes.CDLL("libc.so.6")
        return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
    except OSError:
        return None


def keep_freed_memory() -> None:
    """Let the C library keep what tensors free: a training step then reuses its gradients' memory, without page faults.

    glibc gives blocks above 32 MB back to the kernel at once, so that every step of a wide network pays for 64 MB gradients
    again: a fifth of an MRL step. Process-wide, until `return_freed_memory` is called; other C libraries are left as they are.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    if (library := _c_library()) is not None:
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(top_pad, 2**28)


def return_freed_memory() -> None:
    """Give what has been freed and kept back to the kernel, at the end of a run."""
    import gc

    gc.collect()
    gc.freeze()  # what lives on, modules and data, need not be looked at after the next run: that takes 100 ms
    if (library := _c_library()) is not None:
        library.malloc_trim(0)


def limit_threads(threads: int) -> None:
    """Let torch and every BLAS or OpenMP library loaded use `threads` threads in this process."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(limits=threads)
