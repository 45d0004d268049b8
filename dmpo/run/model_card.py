"""The model card of a run: what was trained, on what, how, and with what result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..config.files import config_values
from ..config.keys import DMPOConfig
from ..config.run import RunConfig
from ..evaluation.intervals import Accuracy, MeanReward
from ..models.files import local_checkpoint
from .versions import installed_version, installed_versions

# Keys that say where and how a run was kept, and not what was trained.
_OF_THE_PLACE = {"output_dir", "resume", "run_name", "report_to", "model", "task"}
_KINDS = {True: ["reinforcement-learning"], False: ["sft"]}  # tags, by whether the run is one of DMPO
_MEASURES = (Accuracy, MeanReward)


def model_card(
    config: RunConfig,
    summary: Mapping[str, Any],
    *,
    repo_id: str,
    is_adapter: bool,
    steps: int,
    objects: Mapping[str, str],
) -> ModelCard:
    """The card, as README.md of a model repository.

    Args:
        summary: the content of summary.json; without measures if the run has not ended.
        repo_id: the repository on the hub.
        is_adapter: whether the repository has a LoRA adapter, or else a whole model.
        steps: the gradient steps of the run so far.
        objects: the names of the objects that a script gave in place of names in the config.
    """
    hub_id = _hub_id(config.model)
    task = objects.get("task", config.task)
    base = f"[{hub_id}](https://huggingface.co/{hub_id})" if hub_id else f"`{Path(config.model).name}`"
    what = "A LoRA adapter for" if is_adapter else "All weights of"
    passes = summary.get("epochs")
    epochs = f" ({passes:.3g} epochs of its training rows)" if passes else ""
    name = repo_id.rpartition("/")[2]
    sections = [
        f"# {name}",
        f"{what} the masked diffusion language model {base}, trained with dmpo on the task `{task}` for {steps} "
        f"gradient steps{epochs}. The method is {_method(config)}.",
        _results(summary),
        "## Use\n\n```python\n" + _how_to_load(config, repo_id, hub_id, is_adapter) + "```",
        "## Training\n\nThe keys that differ from dmpo's defaults"
        + (f" (a script gave {_listed(objects)} as objects)" if objects else "")
        + f":\n\n```yaml\n{_changed_keys(config)}```",
        "Versions: " + ", ".join(f"{package} {version}" for package, version in _versions().items()) + ".",
    ]
    data = ModelCardData(
        base_model=hub_id,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["dmpo", "masked-diffusion", *_KINDS[isinstance(config, DMPOConfig)], *(["lora"] if is_adapter else [])],
        model_name=name,
        eval_results=_eval_results(summary, task) or None,
    )
    text = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def _method(config: RunConfig) -> str:
    if isinstance(config, DMPOConfig):
        return f"distribution matching policy optimization with the loss `{config.loss}`"
    return "supervised fine-tuning with the masked-diffusion loss of LLaDA"


def _hub_id(model: str) -> str | None:
    """The base model's id on the hub; None for a folder and for an embedded model."""
    try:
        return model if local_checkpoint(model) is None else None
    except ValueError:
        return None


def _measures(summary: Mapping[str, Any]) -> list[tuple[str, str, str, type[Accuracy] | type[MeanReward]]]:
    """(how completions were drawn, key before, key after, kind) of each measure that the summary has."""
    return [
        (draw, f"{draw}_{kind.NAME}_before", f"{draw}_{kind.NAME}_after", kind)
        for kind in _MEASURES
        for draw in ("sampled", "greedy")
        if f"{draw}_{kind.NAME}_after" in summary
    ]


def _results(summary: Mapping[str, Any]) -> str:
    measures = _measures(summary)
    if not measures:
        return ""
    title = f"## Results\n\nOn {summary['test_rows']} test rows, with 95 % intervals:\n\n"
    rows = []
    for draw, *keys, kind in measures:
        cells = []
        for key in keys:
            low, high = (kind.text(bound) for bound in summary[f"{key}_interval"])
            cells.append(f"{kind.text(summary[key])} ({low} to {high})")
        rows.append(f"| {draw} {kind.NAME} | {' | '.join(cells)} |")
    return title + "| | before | after |\n|---|---|---|\n" + "\n".join(rows)


def _eval_results(summary: Mapping[str, Any], task: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=task,
            dataset_split="test",
            metric_type=kind.NAME,
            metric_name=f"{draw} {kind.NAME}",
            metric_value=round(summary[after], 4),
        )
        for draw, _, after, kind in _measures(summary)
    ]


def _how_to_load(config: RunConfig, repo_id: str, hub_id: str | None, is_adapter: bool) -> str:
    base = hub_id or Path(config.model).name
    options = "".join(
        f", {name}={value!r}" for name in ("mask_id", "eos_id") if (value := getattr(config, name, None)) is not None
    )
    if is_adapter:
        load = f'model = dmpo.load_adapter(dmpo.load_model("{base}"{options}), "{repo_id}")\n'
    else:
        load = f'model = dmpo.load_model("{repo_id}")\n'
    return (
        "import dmpo\n"
        "from transformers import AutoTokenizer\n\n"
        f"{load}"
        f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}", padding_side="left")\n'
        'prompts = tokenizer(["..."], return_tensors="pt").input_ids\n'
        f'generation = dmpo.generate(model, prompts, decoder="{config.decoder}", gen_length={config.gen_length}, '
        f"block_length={config.block_length}, steps={config.steps})\n"
        "print(tokenizer.batch_decode(generation.sequences[:, prompts.shape[1] :], skip_special_tokens=True))\n"
    )


def _changed_keys(config: RunConfig) -> str:
    values = config_values(config)
    changed = {
        field.name: values[field.name]
        for field in dataclasses.fields(config)
        if field.name not in _OF_THE_PLACE and values[field.name] != _default(field)
    }
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True) if changed else "{}\n"


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _listed(objects: Mapping[str, str]) -> str:
    return ", ".join(f"{what} `{name}`" for what, name in objects.items())


def _versions() -> dict[str, str]:
    return {"dmpo": installed_version("dmpo") or "unknown", **installed_versions()}
