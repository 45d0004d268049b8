"""If these fail, a model sees another prompt than the one that was meant."""

from __future__ import annotations

from typing import Any

import pytest

from dmpo.models.tokenizer import encode_prompt, prompt_text, seen_prompt
from dmpo.pretrain import character_tokenizer

SYSTEM = {"role": "system", "content": "11"}
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ {'system': '.1', 'user': '.2', 'assistant': '.3'}[m['role']] }}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}.3{% endif %}"
)


def tokenizer(template: str | None = TEMPLATE) -> Any:
    made = character_tokenizer()
    made.chat_template = template
    return made


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_messages_go_through_the_chat_template() -> None:
    turns = [SYSTEM, user("44"), {"role": "assistant", "content": "33"}, user("22")]
    row = {"prompt": "for people", "prompt_messages": turns}
    assert prompt_text(tokenizer(), row) == ".111.244.333.222.3"
    assert seen_prompt(tokenizer(), row) == ".111.244.333.222.3"
    assert encode_prompt(tokenizer(), row, 99) == tokenizer()(".111.244.333.222.3")["input_ids"]
    assert prompt_text(tokenizer(), {"prompt": "44"}) == ".244.3"
    assert row["prompt_messages"] == turns


def test_shots_stand_behind_the_system_s_message() -> None:
    row = {"prompt": "for people", "prompt_messages": [SYSTEM, user("22")]}
    assert prompt_text(tokenizer(), row, [("1", "2"), ("3", "4")]) == ".111.21.32.23.34.222.3"
    assert len(row["prompt_messages"]) == 2


def test_without_a_template_a_prompt_is_a_text() -> None:
    assert prompt_text(tokenizer(None), {"prompt": "44"}, [("1", "2")]) == "1\n2\n\n44"
    assert prompt_text(tokenizer(None), {"prompt": "?", "prompt_messages": [user("44")]}) == "44"
    with pytest.raises(ValueError, match=r"no chat template, .* got messages of system, user: 'a prompt'"):
        prompt_text(tokenizer(None), {"prompt": "a prompt", "prompt_messages": [SYSTEM, user("44")]})


def test_a_template_that_refuses_a_message() -> None:
    row = {"prompt": "a prompt", "prompt_messages": [{"role": "tool", "content": "1"}, user("4")]}
    with pytest.raises(ValueError, match="the model's chat template refuses the prompt 'a prompt': no tools"):
        encode_prompt(tokenizer(), row, 99)


def test_the_text_shows_what_the_vocabulary_lacks() -> None:
    assert seen_prompt(tokenizer(None), {"prompt": "1?4"}) == "1<eos>4"


def test_a_column_named_shots_is_a_column() -> None:
    assert prompt_text(tokenizer(None), {"prompt": "44", "shots": "twelve"}) == "44"
