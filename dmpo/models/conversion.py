"""Convert an autoregressive Llama, Qwen2 or Qwen3 to a bidirectional masked language model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..storage.whole_files import ASIDE
from .files import checkpoint_folder, local_checkpoint, read_json
from .gguf_files import load_gguf_model, load_gguf_tokenizer, read_gguf_config
from .loading import load_model
from .mask_token import MaskToken, add_mask_token
from .masked_lm import MaskedLM
from .model_config import make_bidirectional
from .model_types import CLASSES
from .placement import parse_dtype
from .published import PUBLISHED
from .refused import check_name, find_refused
from .saving import save_model
from .token_ids import listed_ids
from .tokenizer import load_tokenizer

AUTOREGRESSIVE = ("llama", "qwen2", "qwen3")


def convert(
    source: str | Path,
    output: str | Path,
    *,
    shift: bool = False,
    mask_token: str | None = None,
    dtype: torch.dtype | str | None = None,
    gguf: str | None = None,
) -> str:
    """Write an autoregressive model as a bidirectional masked language model that `load_model` reads.

    Weights stay as they are, but each token attends to every other, and config.json names mask, EOS and padding. The
    model must be fine-tuned before it decodes well. The tokenizer is written beside it, with its chat template.

    Args:
        source: folder with config.json, safetensors and tokenizer; a Hub id; or a GGUF file.
        output: the folder to write, absent or empty. A failed call leaves no incomplete folder.
        shift: keep the alignment of the source: the output at j-1 predicts position j, as in Dream. False: the output
            at j predicts position j, as in LLaDA.
        mask_token: text of the mask token; None chooses one (`mask_token.add_mask_token`). The row of a new token in
            embedding and head is the mean of the rows of the tokenizer's tokens.
        dtype: of the written weights; None keeps the source's, and is float32 for GGUF.
        gguf: name of a GGUF file in the folder or Hub repository `source`.

    Returns what was done, in a few lines.

    Raises:
        ValueError: `output` is not empty; the source is bidirectional already, is quantised, has another architecture
            or no tokenizer; the mask token may stand in texts or is in use; as `load_model`. Nothing is written.
        ImportError: a GGUF file, and the package gguf is not installed.
    """
    final = Path(output).expanduser()
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise ValueError(f"output must be absent or an empty folder, got {final}; give another path")
    weights_dtype = parse_dtype(dtype)
    file = _gguf_file(source, gguf)
    tokenizer, model, mask = (
        _read_folder(source, mask_token, weights_dtype)
        if file is None
        else _read_gguf(file, mask_token, torch.float32 if isinstance(weights_dtype, str) else weights_dtype)
    )
    rows = model.config.vocab_size
    state = model.state_dict()
    if mask.is_new:
        state = _with_mask_row(state, mask.token_id, tied=model.config.tie_word_embeddings)
    model.config.vocab_size = len(state["model.embed_tokens.weight"])
    has_row = tokenizer.pad_token_id is not None and tokenizer.pad_token_id < model.config.vocab_size
    if not has_row and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    make_bidirectional(model.config, mask.token_id, model.config.eos_token_id)
    if shift:
        model.config.prediction_shift = 1
    partial = final.with_name(f"{ASIDE}{final.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_model(model, partial, state=state)
        tokenizer.save_pretrained(partial)
        if final.is_dir():
            final.rmdir()
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return "\n".join(_report(final, source, model, tokenizer, mask, rows))


def _gguf_file(source: str | Path, gguf: str | None) -> Path | None:
    """The GGUF file that is meant, downloaded if `source` is a Hub id; None if the source is a safetensors folder."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix != ".gguf" or gguf is not None:
            raise ValueError(f"source must be a folder, a Hub id or one GGUF file, got {path} and gguf={gguf}")
        return path
    if gguf is None:
        if path.is_dir() and not (path / "config.json").exists() and (files := sorted(path.glob("*.gguf"))):
            raise ValueError(f"{path} holds GGUF files and no config.json: name one, such as gguf={files[0].name}")
        return None
    folder = local_checkpoint(source)
    if folder is not None:
        if not (folder / gguf).is_file():
            raise ValueError(f"{folder} has no file {gguf}")
        return folder / gguf
    try:
        return Path(hf_hub_download(str(source), gguf))
    except Exception as error:  # offline, gated or unknown: the message of the Hub's library names the reason
        raise ValueError(f"the Hub did not provide {gguf} of {source}: {error}") from error


def _read_gguf(
    file: Path, mask_token: str | None, dtype: torch.dtype
) -> tuple[PreTrainedTokenizerBase, MaskedLM, MaskToken]:
    config: Any = read_gguf_config(file, AUTOREGRESSIVE)
    tokenizer = load_gguf_tokenizer(file)
    config.eos_token_id = _eos_ids(tokenizer, config.vocab_size, config.eos_token_id)
    mask = add_mask_token(tokenizer, config.vocab_size, listed_ids(config.eos_token_id), mask_token)
    return tokenizer, load_gguf_model(file, config, dtype), mask


def _read_folder(
    source: str | Path, mask_token: str | None, dtype: torch.dtype | str
) -> tuple[PreTrainedTokenizerBase, MaskedLM, MaskToken]:
    check_name(source)
    if local_checkpoint(source) is None:
        _check_autoregressive(str(source), _hub_config(str(source)))  # before gigabytes are downloaded
    folder = checkpoint_folder(source)
    fields = read_json(folder / "config.json")
    _check_autoregressive(f"{folder / 'config.json'}", fields)
    config_class: Any = CLASSES[fields["model_type"]].config_class
    config = config_class.from_dict({"eos_token_id": None} | fields)
    if "sliding_attention" in (getattr(config, "layer_types", None) or []):
        raise ValueError(f"{folder / 'config.json'}: layers with a sliding window are not supported")
    tokenizer = load_tokenizer(folder)
    generation = folder / "generation_config.json"
    stated = read_json(generation).get("eos_token_id") if generation.is_file() else None
    eos = _eos_ids(tokenizer, config.vocab_size, config.eos_token_id, stated)
    mask = add_mask_token(tokenizer, config.vocab_size, listed_ids(eos), mask_token)
    # The mask token may have no row yet: until then any other token takes its place.
    any_id = next(token_id for token_id in range(len(tokenizer)) if token_id not in listed_ids(eos))
    model = load_model(folder, dtype=dtype, mask_id=any_id, eos_id=eos)
    return tokenizer, model, mask


def _hub_config(source: str) -> dict[str, Any]:
    if source in PUBLISHED:
        return dict(PUBLISHED[source])
    try:
        return read_json(Path(hf_hub_download(source, "config.json")))
    except Exception as error:  # offline, gated or unknown: the message of the Hub's library names the reason
        raise ValueError(f"{source!r} is no folder here, and the Hub gave no config.json: {error}") from error


def _check_autoregressive(owner: str, fields: Mapping[str, Any]) -> None:
    """Raise ValueError unless the fields of a config.json are of an autoregressive model that can be converted."""
    model_type = fields.get("model_type")
    diffusion = model_type == "llada" or (model_type in CLASSES and model_type not in AUTOREGRESSIVE)
    marked = fields.get("is_causal") is False or fields.get("mask_token_id") is not None or "block_size" in fields
    if diffusion or find_refused(fields=fields) or (model_type in AUTOREGRESSIVE and marked):
        raise ValueError(
            f"{owner}: model_type {model_type!r} is a masked or diffusion model already, nothing to convert"
        )
    if model_type not in AUTOREGRESSIVE:
        raise ValueError(f"{owner}: model_type {model_type!r} is not supported; {', '.join(AUTOREGRESSIVE)} are")
    if fields.get("quantization_config"):
        method = dict(fields["quantization_config"]).get("quant_method")
        raise ValueError(f"{owner}: the weights are quantised ({method}); convert the checkpoint they were made from")


def _eos_ids(tokenizer: PreTrainedTokenizerBase, vocab_size: int, *stated: Any) -> int | list[int] | None:
    """Every token that ends a text: the tokenizer's, then those of config.json and generation_config.json."""
    ids = dict.fromkeys(token for value in (tokenizer.eos_token_id, *stated) for token in listed_ids(value))
    known = [token for token in ids if isinstance(token, int) and 0 <= token < vocab_size]
    return known[0] if len(known) == 1 else known or None


def _with_mask_row(state: Mapping[str, Tensor], token_id: int, *, tied: bool) -> dict[str, Tensor]:
    """The weights with a row for a new token in embedding and head: the mean of the rows of all tokens before it."""
    result = dict(state)
    if tied:
        del result["lm_head.weight"]  # it is the embedding
    for name in {"model.embed_tokens.weight", "lm_head.weight"} & result.keys():
        weight = result[name]
        mean = weight[:token_id].mean(0, dtype=torch.float32).to(weight.dtype)
        new_rows = mean.expand(max(0, token_id + 1 - len(weight)), -1)
        result[name] = torch.cat([weight, new_rows])
        result[name][token_id] = mean
    return result


def _report(
    final: Path,
    source: str | Path,
    model: MaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    mask: MaskToken,
    rows: int,
) -> list[str]:
    """What was done, a line each."""
    config: Any = model.config

    def named(ids: Any) -> str:
        return ", ".join(f"{tokenizer.convert_ids_to_tokens(token)} ({token})" for token in listed_ids(ids)) or "none"

    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    if not mask.is_new:
        origin = "a special token that nothing used"
    elif mask.token_id < rows:
        origin = "a new token, in a row of the embedding that no token had; the row is the mean of all others"
    else:
        origin = f"a new token; the embedding grew from {rows} to {config.vocab_size} rows"
    shifted = (
        "the output at j-1 predicts position j, as in Dream"
        if getattr(config, "prediction_shift", 0)
        else ("the output at j predicts position j, as in LLaDA")
    )
    head = "tied head" if config.tie_word_embeddings else "head of its own"
    return [
        f"{final}: {source} as a bidirectional masked language model",
        f"{config.model_type}, {millions:.1f} million parameters, {str(model.dtype).removeprefix('torch.')}, {head}",
        f"mask token: {mask.text} ({mask.token_id}), {origin}",
        f"EOS: {named(config.eos_token_id)}; padding: {named(config.pad_token_id)}",
        f"alignment: {shifted}",
        f"tokenizer: {len(tokenizer)} tokens, {'with' if tokenizer.chat_template else 'without'} a chat template",
    ]
