"""How and where weights are loaded: dtype, device, 4 bits. Each is checked before any file is read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import BitsAndBytesConfig


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | str:
    """The floating-point dtype of a dtype or of its name ("bfloat16" or "torch.bfloat16"); "auto" for None.

    Raises ValueError for any other value.
    """
    if dtype is None or dtype == "auto":
        return "auto"
    parsed = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(parsed, torch.dtype) or not parsed.is_floating_point:
        raise ValueError(f"dtype must be a floating-point torch dtype or its name, got {dtype!r}")
    return parsed


def parse_device(device: torch.device | str | None) -> torch.device:
    """The device of a device or of its name; the CPU for None, and the GPU if there is one for "auto".

    Raises ValueError if this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        parsed = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be a torch device or its name, got {device!r}") from error
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device must exist, got {device!r}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return parsed


def nf4_config(dtype: torch.dtype | str, device: torch.device) -> BitsAndBytesConfig:
    """transformers' config for NF4 with quantised scales. The head is not quantised.

    Products are computed in `dtype`; "auto" means bfloat16.

    Raises ImportError without bitsandbytes, and ValueError for a device that bitsandbytes does not support.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise ImportError(f"load_in_4bit needs bitsandbytes: pip install 'dmpo[quant]' ({error})") from error
    if device.type not in (supported := bitsandbytes.supported_torch_devices):
        raise ValueError(
            f"load_in_4bit: bitsandbytes needs a device of type {', '.join(sorted(supported))}, got {device.type}"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if isinstance(dtype, str) else dtype,
        llm_int8_skip_modules=["lm_head"],  # it holds for 4 bits, too, despite its name
    )


def check_nf4_rows(shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
    """Raise ValueError for layers whose 4-bit weights the CPU code of bitsandbytes (0.50) would read wrongly.

    That code assumes that every row of a weight begins a new block of 64 values. This is wrong if the length of a row
    is no multiple of 64. The GPU code is right.
    """
    for name, shape in shapes.items():
        if device.type == "cpu" and len(shape) == 2 and ".layers." in name and shape[1] % 64:
            raise ValueError(
                f"load_in_4bit on the CPU needs layer widths that are multiples of 64: {name} is {shape}; use a GPU "
                "or load_in_4bit=false"
            )
