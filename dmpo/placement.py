"""As what, and where, weights are loaded: dtype, device, 4 bits; each checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import BitsAndBytesConfig


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | str:
    """A floating-point dtype given by name ("bfloat16" or "torch.bfloat16") or itself; "auto" for None.

    Raises ValueError for anything else.
    """
    if dtype is None or dtype == "auto":
        return "auto"
    parsed = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(parsed, torch.dtype) or not parsed.is_floating_point:
        raise ValueError(f"dtype must be a floating-point torch dtype or its name, got {dtype!r}")
    return parsed


def parse_device(device: torch.device | str | None) -> torch.device:
    """A device given by name or itself; the CPU for None. Raises ValueError for one that does not exist here."""
    try:
        parsed = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be a torch device or its name, got {device!r}") from error
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return parsed


def nf4_config(dtype: torch.dtype | str, device: torch.device) -> BitsAndBytesConfig:
    """transformers' config of NF4 with quantised scales, computing in `dtype` ("auto": bfloat16); the head is left out.

    Raises ImportError without bitsandbytes, ValueError for a device that it does not support.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise ImportError(f"load_in_4bit needs bitsandbytes: pip install 'dmpo[quant]' ({error})") from error
    if device.type not in (supported := bitsandbytes.supported_torch_devices):
        raise ValueError(f"load_in_4bit: bitsandbytes runs on {', '.join(sorted(supported))}, not on {device.type}")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if isinstance(dtype, str) else dtype,
        llm_int8_skip_modules=["lm_head"],  # not only for 8 bits, whatever its name
    )


def check_nf4_rows(shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
    """Raise ValueError where 4 bits would be read back wrong: bitsandbytes' CPU code (0.50) takes every row of a weight
    to begin a block of 64, which is not so where rows are no multiple of 64 long. The GPUs' code is not concerned.
    """
    for name, shape in shapes.items():
        if device.type == "cpu" and len(shape) == 2 and ".layers." in name and shape[1] % 64:
            raise ValueError(f"load_in_4bit on the CPU needs layer widths that are multiples of 64: {name} is {shape}")
