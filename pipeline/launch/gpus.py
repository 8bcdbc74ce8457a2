"""GPUs that a run can be planned for, and whose utilisation is known: from the vendor's data sheets. Torch-free."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Gpu:
    peak_bf16: float  # operations per second of dense matrix products
    memory_bytes: int


GPUS: Final = {
    "A100-40GB": Gpu(312e12, 40 * 10**9),
    "A100": Gpu(312e12, 80 * 10**9),
    "H100": Gpu(989e12, 80 * 10**9),
    "H200": Gpu(989e12, 141 * 10**9),
    "B200": Gpu(2250e12, 180 * 10**9),
}


def known_gpu(name: str) -> str | None:
    """Its name in GPUS, in whatever case it was written; None where it is not one of them."""
    return next((known for known in GPUS if known.lower() == name.lower()), None)


def device_peak(device_name: str) -> float | None:
    """Peak of a GPU by its marketing name, or None where it is not known (then MFU is not reported)."""
    return next((gpu.peak_bf16 for name, gpu in GPUS.items() if name in device_name), None)
