"""If these fail, a name that scripts import from `dmpo` or `dmpo.models` is gone."""

from __future__ import annotations

from types import ModuleType

import pytest

import dmpo
import dmpo.models


@pytest.mark.parametrize("package", [dmpo, dmpo.models])
def test_every_exported_name_is_there(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
        assert name in dir(package)
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'load_modle'"):
        _ = package.load_modle


def test_the_names_of_dmpo_models() -> None:
    assert dmpo.models.__all__ == [
        *("MaskedLM", "convert", "head_weight", "hidden_states", "lm_head", "load_adapter", "load_model"),
        *("load_tokenizer", "lora_target_modules", "new_model", "save_model", "unwrap"),
    ]
