"""If these fail, a typo in a config is found after hours instead of at once, or is not found at all."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import pickle
import typing
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

import dmpo
from dmpo import generate
from dmpo.config import DMPOConfig, GenerateConfig
from dmpo.config.checks import LOSSES, ONE_STEP, masks_whole_completions, unread_keys
from dmpo.config.decoding import (
    DECODERS,
    OPTIONS,
    DecodingOptions,
    DecodingRules,
    decoding_options,
    is_read,
    readers_of,
)
from dmpo.config.files import dump_config, load_config, shipped_configs
from dmpo.config.meanings import key_meanings
from dmpo.config.pretrain import PretrainConfig
from dmpo.config.sft import SFTConfig
from dmpo.evaluation.keys import EvalConfig
from dmpo.evaluation.rescore import RescoreConfig
from dmpo.objectives import OBJECTIVES
from dmpo.run.preflight import warn_unread_keys

REQUIRED = ["model=m", "task=sudoku4", "output_dir=out"]


def load(*overrides: str) -> DMPOConfig:
    return load_config(DMPOConfig, None, [*REQUIRED, *overrides])


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_load_and_round_trip(name: str, tmp_path: Path) -> None:
    config = load_config(DMPOConfig, name)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(DMPOConfig, str(path)) == config


def test_overrides_have_types() -> None:
    config = load(
        "learning_rate=1e-4", "seed=3", "antithetic=false", "task_options.min_holes=2", "report_to=[tensorboard]"
    )
    assert config.learning_rate == 1e-4
    assert config.seed == 3
    assert config.antithetic is False
    assert config.task_options == {"min_holes": 2}
    assert config.report_to == ["tensorboard"]


@pytest.mark.parametrize("kind", [DMPOConfig, SFTConfig, EvalConfig, GenerateConfig, RescoreConfig, PretrainConfig])
def test_every_key_has_its_meaning_below_it(kind: type) -> None:
    meanings = key_meanings(kind)
    assert list(meanings) == [key.name for key in dataclasses.fields(kind)]
    assert all(meanings.values())


def test_meanings_of_inherited_keys_are_those_of_the_options() -> None:
    meanings = key_meanings(DMPOConfig)
    assert meanings["threshold"] == key_meanings(DecodingOptions)["threshold"] != ""
    assert meanings["reward_timeout"].startswith("seconds of one call of ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora_target_modules=[]", r"lora_target_modules must be all-linear or a list of names, got \[\]"),
        ("lora_target_modules=[q_proj,q_proj]", "lora_target_modules must be without repeats"),
        ("logging_steps=0", "logging_steps must be ≥ 1, got 0"),
        ("optim=sgd", "'optim': Input should be 'adamw', 'adamw_torch', 'adamw_8bit' or 'adamw_bnb_8bit', got 'sgd'"),
        ("learning_rat=1", "unknown config key 'learning_rat', did you mean 'learning_rate'"),
        ("zzz=1", "unknown config key 'zzz'; valid keys"),
        ("seed=abc", "config key 'seed'.*'abc'"),
        ("baseline=negativ", "config key 'baseline'.*'negative'"),
        ("num_generations=1", "num_generations must be ≥ 2"),
        ("resample_prompts=2", "resample_prompts must be 0 where skip_equal_rewards is false; set .* to true, got 2"),
        ("resample_prompts=-1", r"resample_prompts must be in \[0, 100\], got -1"),
        ("resample_prompts=101", r"resample_prompts must be in \[0, 100\], got 101"),
        ("resample_prompts=1.5", "resample_prompts"),
        ("skip_equal_rewards=2", "skip_equal_rewards"),
        ("coeff=0", "coeff must be"),
        ("coeff=.nan", "coeff"),
        ("gen_length=100", "gen_length must be a positive multiple of block_length, got 100 and 32"),
        ("block_length=0", "gen_length must be a positive multiple of block_length, got 256 and 0"),
        ("steps=100", "steps must be a positive multiple of the 8 blocks, got 100"),
        ("eval_decode_steps=100", "eval_decode_steps: steps must be a positive multiple of the 8 blocks, got 100"),
        ("temperature=-1", "temperature must be 0 or finite and ≥ 1e-30, got -1"),
        ("threshold=0.9", "threshold must be left at None, got 0.9: it belongs to parallel"),
        ("factor=.nan", "config key 'factor'"),
        ("remasking=none", "config key 'remasking'.*'none'"),
        ("wino_threshold=0.5", "wino_threshold must be left at 0.6, got 0.5: it belongs to wino, not to 'topk'"),
        ("replicates=3", "replicates must be even"),
        ("mask_rate_min=0.95", "mask_rate_min"),
        ("decoder=topp", "unknown decoder 'topp', did you mean 'topk'"),
        ("max_steps=0", "max_steps must be ≥ 1"),
        ("mask_id=-1", "^mask_id must be a token id, an integer ≥ 0, got -1$"),
        ("mask_id=true", "^mask_id must be a token id, an integer ≥ 0, got True$"),
        ("eos_id=[2, x]", r"^eos_id must be a token id, an integer ≥ 0, or a list of token ids, got \[2, 'x'\]$"),
        ("eos_id=[]", "^eos_id must be a token id"),
        ("seed.x=1", "'seed.x'|seed"),
        ("seed", "expected key=value"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_bad_values_are_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["decoder=parallel", "threshold=1.1"], r"threshold must be in \[0, 1\], got 1.1"),
        (["decoder=dual_cache", "threshold=0.9", "factor=1"], "give threshold or factor, not both"),
        (["decoder=wino", "wino_threshold_back=2"], r"wino_threshold_back must be in \[0, 1\], got 2"),
        (["decoder=wino", "remasking=random"], "remasking must be low_confidence for 'wino'"),
        (["decoder=wino", "attn_implementation=flash_attention_2"], "attn_implementation must be sdpa or eager"),
    ],
)
def test_decoder_options_that_do_not_go_together(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(*overrides)
    if "attn" not in overrides[-1]:
        with pytest.raises(ValueError, match=message):
            load_config(GenerateConfig, None, overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompt_mask_rate=1", "loss=wd1"], r"prompt_mask_rate must be in \[0, 1\), got 1"),
        (["clip_epsilon=1", "loss=diffu_grpo"], r"clip_epsilon must be in \(0, 1\), got 1"),
        (["kl_beta=-0.1", "loss=diffu_grpo"], "kl_beta must be ≥ 0"),
        (["wd1_psi=0", "loss=wd1"], "wd1_psi must be > 0"),
        (["prompt_mask_rate=0", "loss=wd1", "replicates=2"], "replicates must be 1 where prompt_mask_rate is 0"),
        (["ess_target=0.5", "loss=wd1"], "ess_target must be left at None for loss 'wd1'"),
        (["coeff=0.5", "loss=diffu_grpo"], "coeff must be left at 1.0 for loss 'diffu_grpo'"),
        (["weighting=reward", "loss=wd1"], "weighting must be left at softmax for loss 'wd1'"),
        (["prompt_mask_rate=0.1"], "prompt_mask_rate must be left at 0.15 for loss 'wdce'"),
        (["clip_epsilon=0.2", "loss=wd1"], "clip_epsilon must be left at 0.5 for loss 'wd1'"),
        (["kl_beta=0", "loss=wddo"], "kl_beta must be left at 0.04 for loss 'wddo'"),
        (["wddo_alpha=0.5"], "wddo_alpha must be left at 1.0 for loss 'wdce'"),
        (["wddo_beta=0.5", "loss=wd1"], "wddo_beta must be left at 1.0 for loss 'wd1'"),
        (["wd1_psi=2", "loss=diffu_grpo"], "wd1_psi must be left at 1.0 for loss 'diffu_grpo'"),
    ],
)
def test_keys_of_one_loss_are_refused_by_another(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["fp8_rollouts=true", "load_in_4bit=true"], "fp8_rollouts must be false where load_in_4bit is true"),
        (["fp8_training=true"], "fp8_training must be false without fp8_rollouts"),
        (["fp8_training=true", "fp8_rollouts=true", "lora_r=0"], "fp8_training must be false without lora_r above 0"),
        (
            ["fp8_training=true", "fp8_rollouts=true", "merge_adapters=true"],
            "merge_adapters must be false where fp8_training is true",
        ),
    ],
)
def test_fp8_is_refused_with_what_it_does_not_go_with(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(*overrides)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["loss=wd1"], []),
        (["alpha=0.1", "strength=0.5", "baseline=mean"], []),
        (["alpha=0.1", "strength=0.5", "baseline=mean", "loss=wddo"], ["baseline=mean, strength=0.5"]),
        (["alpha=0.1", "strength=0.5", "loss=wd1"], ["alpha=0.1, strength=0.5"]),
        (["alpha=0.1", "loss=diffu_grpo"], ["alpha=0.1"]),
    ],
)
def test_keys_of_shipped_configs_that_a_loss_leaves_unread_are_logged(
    overrides: list[str], told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = load(*overrides)
    warn_unread_keys(config, enabled=True)
    assert caplog.messages == [f"loss {config.loss} does not read {keys}" for keys in told]


def test_prompt_masks_need_not_come_in_pairs() -> None:
    for loss in ONE_STEP:
        assert load(f"loss={loss}", "replicates=1").replicates == 1
    assert set(OBJECTIVES) == set(LOSSES)


def test_a_loss_of_ones_own_may_read_every_key() -> None:
    keys = ("kl_beta=0.1", "wddo_alpha=2.0", "prompt_mask_rate=0.5", "ess_target=0.5", "strength=0.5", "replicates=3")
    config = load("loss=mine.losses:BEST", *keys)
    assert (config.loss, config.kl_beta, config.replicates) == ("mine.losses:BEST", 0.1, 3)
    assert unread_keys(config) == []
    assert masks_whole_completions(config.loss), "memory is planned for the largest views"
    assert masks_whole_completions(config.loss, scoring=True)


def test_a_decoder_of_ones_own_may_read_every_rule() -> None:
    rules: dict[str, Any] = {"threshold": 0.5, "factor": 0.5, "wino_threshold": 0.1, "wino_threshold_back": 0.2}
    for kind, required in ((DMPOConfig, REQUIRED), (GenerateConfig, [])):
        words = [*required, "decoder=mine:LeftToRight", *(f"{name}={value}" for name, value in rules.items())]
        assert {name: getattr(load_config(kind, None, words), name) for name in rules} == rules
        with pytest.raises(ValueError, match=r"compiled must be left at False.*not to 'mine:LeftToRight'"):
            load_config(kind, None, [*words, "compiled=true"])
    evaluation = ["model=m", "tasks=t", "output_dir=o", "decoders=[topk, 'mine:LeftToRight']", "threshold=0.5"]
    config = load_config(EvalConfig, None, evaluation)
    assert [config.decoding(256, name).threshold for name in config.decoder] == [None, 0.5]


@pytest.mark.parametrize("value", ["mine:", ":LeftToRight", "a b:c", "a:b:c", "a..b:c", "topk:"])
@pytest.mark.parametrize("key", ["loss", "decoder"])
def test_a_name_of_another_form_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{key} must be named 'module:name', got '{value}'"):
        load(f"{key}='{value}'")


PASSED: list[tuple[str, Any]] = [("decoder", name) for name in DECODERS]
PASSED += [("cfg_scale", 0.5), ("remasking", "random"), ("early_stop", False)]


@pytest.mark.parametrize(("name", "value"), PASSED)
def test_every_option_of_generate_passes_through(name: str, value: Any) -> None:
    for kind, required in ((DMPOConfig, REQUIRED), (GenerateConfig, [])):
        options = decoding_options(load_config(kind, None, [*required, f"{name}={value}"]), seed=5)
        assert type(options) is DecodingOptions
        assert getattr(options, name) == value
        assert options.seed == 5


@pytest.mark.parametrize(
    ("kind", "required"),
    [(DMPOConfig, REQUIRED), (GenerateConfig, []), (EvalConfig, ["model=a", "tasks=b", "output_dir=c"])],
)
def test_token_ids_are_keys(kind: type, required: list[str]) -> None:
    config: Any = load_config(kind, None, [*required, "mask_id=5", "eos_id=[2, 7]"])
    assert (config.mask_id, config.eos_id) == (5, [2, 7])
    config = load_config(kind, None, [*required, "eos_id=2"])
    assert (config.mask_id, config.eos_id) == (None, 2)


def test_rules_pass_through() -> None:
    for rule in ("threshold=0.8", "factor=0.8"):
        name = rule.partition("=")[0]
        assert getattr(decoding_options(load("decoder=prefix_cache", rule)), name) == 0.8
    wino = decoding_options(load("decoder=wino", "wino_threshold=0.4", "wino_threshold_back=0.7"))
    assert (wino.wino_threshold, wino.wino_threshold_back) == (0.4, 0.7)


@pytest.mark.parametrize(
    ("kind", "base", "defaults"),
    [
        (DMPOConfig, DecodingOptions, {"gen_length": 256, "temperature": 0.2, "early_stop": True}),
        (SFTConfig, DecodingOptions, {"gen_length": 256, "early_stop": True}),
        (GenerateConfig, DecodingOptions, {"early_stop": True}),
        (EvalConfig, DecodingRules, {"early_stop": True}),
    ],
)
def test_configs_inherit_every_decoding_option(kind: type, base: type, defaults: dict[str, Any]) -> None:
    """Type and default of a key are those of the option, unless the config has another default."""
    hints, inherited = (typing.get_type_hints(of) for of in (kind, base))
    keys = {key.name: key.default for key in dataclasses.fields(kind)}
    for option in dataclasses.fields(base):
        assert hints[option.name] == inherited[option.name]
        assert keys[option.name] == defaults.get(option.name, option.default)
    assert set(defaults) <= {option.name for option in dataclasses.fields(base)}


def test_each_decoding_option_is_declared_once() -> None:
    """One annotated name in the whole package: a second one would be a second place to edit. A config repeats a name
    for another default alone; lengths, decoders and steps of an evaluation are keys of its own."""
    declared = Counter(
        statement.target.id
        for path in Path(dmpo.__file__).parent.rglob("*.py")
        for definition in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(definition, ast.ClassDef) and definition.name.endswith(("Config", "Options", "Rules"))
        for statement in definition.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    )
    own = {"block_length": 2, "seed": 2}  # of EvalConfig, which may be null; of PretrainConfig, which decodes nothing
    own |= {"gen_length": 4, "decoder": 2, "steps": 2}  # of EvalConfig, which may have several, or null
    own |= {"temperature": 2, "early_stop": 5}  # other defaults
    assert {name: declared[name] for name in OPTIONS} == dict.fromkeys(OPTIONS, 1) | own
    keywords = inspect.signature(generate).parameters.keys()
    assert not keywords & set(OPTIONS), "generate takes the options by the names of the fields"


def test_options_are_read_only() -> None:
    options = DecodingOptions(steps=64)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to 'steps'"):
        options.steps = 0
    assert options == dataclasses.replace(options, steps=64) == copy.deepcopy(options)
    assert options == pickle.loads(pickle.dumps(options))


def test_an_option_that_the_decoder_does_not_read_is_refused_by_its_annotation() -> None:
    assert {name: readers_of(name) for name in OPTIONS if readers_of(name)} == {
        "threshold": ("parallel", "prefix_cache", "dual_cache", "risk", "hierarchy", "credit"),
        "factor": ("parallel", "prefix_cache", "dual_cache"),
        "entropy_bound": ("entropy",),
        "low_threshold": ("hierarchy",),
        **dict.fromkeys(("credit_alpha", "credit_gamma", "credit_beta"), ("credit",)),
        **dict.fromkeys(("wino_threshold", "wino_threshold_back"), ("wino",)),
        "compiled": ("dual_cache",),
    }
    for decoder in DECODERS:
        for name, value in (("threshold", 0.5), ("factor", 0.5), ("wino_threshold", 0.5), ("compiled", True)):
            option: dict[str, Any] = {name: value}
            if is_read(name, [decoder]):
                assert getattr(DecodingOptions(decoder=decoder, **option), name) == value
            else:
                with pytest.raises(ValueError, match=f"{name} must be left at .* not to '{decoder}'"):
                    DecodingOptions(decoder=decoder, **option)


def test_own_keys_come_before_inherited_ones() -> None:
    names = list(yaml.safe_load(dump_config(load())))
    assert names[:3] == ["model", "task", "output_dir"]
    assert set(names[-len(OPTIONS) :]) == set(OPTIONS)


def test_missing_key_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config key 'output_dir' is required"):
        load_config(DMPOConfig, None, REQUIRED[:2])
    with pytest.raises(ValueError, match="did you mean 'sudoku-tiny'"):
        load_config(DMPOConfig, "sudoku-tini")
    with pytest.raises(ValueError, match="cannot be read"):
        load_config(DMPOConfig, str(tmp_path / "absent.yaml"))
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([1, 2]))
    with pytest.raises(ValueError, match="must be a mapping"):
        load_config(DMPOConfig, str(tmp_path / "list.yaml"))
