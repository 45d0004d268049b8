"""`dmpo convert`."""

from __future__ import annotations

import argparse

from .commands import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to convert, how, and where to."""
    parser.add_argument("source", help="folder, hub id or GGUF file of an autoregressive Llama, Qwen2 or Qwen3")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="absent or empty")
    parser.add_argument("--gguf", metavar="FILE", help="name of the GGUF file in the folder or hub repository")
    parser.add_argument(
        "--mask-token", metavar="TOKEN", help="a special token that nothing uses, or a new token such as '<|mask|>'"
    )
    parser.add_argument(
        "--shift", action="store_true", help="predict position j at j-1, as the source does and as Dream does"
    )
    parser.add_argument("--dtype", help="of the written weights, such as bfloat16; default: the source's")


def run(arguments: argparse.Namespace) -> None:
    """Write a bidirectional masked language model."""
    from ..models.conversion import convert

    report = convert(
        arguments.source,
        arguments.output,
        shift=arguments.shift,
        mask_token=arguments.mask_token,
        dtype=arguments.dtype,
        gguf=arguments.gguf,
    )
    print(report)


COMMAND = Command(
    name="convert",
    text="Turn an autoregressive Llama or Qwen into a masked diffusion model, to be fine-tuned.",
    example="dmpo convert Qwen/Qwen2.5-0.5B-Instruct --output qwen-masked --shift",
    add_arguments=add_arguments,
    run=run,
)
