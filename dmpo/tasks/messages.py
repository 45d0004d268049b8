"""A prompt as a text, or as the messages of a conversation whose last turn is the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from .cells import shown

MESSAGES = "prompt_messages"
"""The column of a row that has the messages of its prompt; the column `prompt` then has them as a text for people."""

DEMONSTRATION = "demonstration"
"""The column of a row that has the completion to learn from, a text."""

Message = dict[str, Any]


def is_conversation(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether a prompt is given as messages, right or wrong."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def read_text(value: Any) -> str:
    """A prompt that is a text. Raises ValueError if it is none, or if it is empty."""
    if not isinstance(value, str):
        raise ValueError(f"the prompt must be a text, or a list of messages with role and content, got {shown(value)}")
    if not value.strip():
        raise ValueError("the prompt is empty")
    return value


def read_messages(value: Any) -> list[Message]:
    """The messages of a prompt; a text is one message of the user. Fields that are None are left out.

    Raises:
        ValueError: a message has no role or no content, the last one is not the user's, or all of them are empty.
    """
    if not is_conversation(value):
        return [{"role": "user", "content": read_text(value)}]
    messages = []
    for number, message in enumerate(value):
        fields = dict(message) if isinstance(message, Mapping) else {}
        for name in ("role", "content"):
            if not isinstance(fields.get(name), str):
                raise ValueError(
                    f"message {number} of the prompt must have a role and a content, both texts, got {shown(message)}"
                )
        messages.append({name: field for name, field in fields.items() if field is not None})
    if not messages or not any(message["content"].strip() for message in messages):
        raise ValueError("the prompt is empty")
    if (last := messages[-1]["role"]) != "user":
        raise ValueError(f"the last message of the prompt must be the user's, got role {last!r}")
    return messages


def read_completion(value: Any) -> tuple[Sequence[Any], str]:
    """The turns before a completion, and its text; of a plain text there are no turns.

    Raises:
        ValueError: there is no text, or the last message is not the assistant's.
    """
    turns: Sequence[Any] = []
    if is_conversation(value):
        *turns, last = value or [None]
        if not isinstance(last, Mapping) or last.get("role") != "assistant":
            raise ValueError(f"the last message of a completion must be the assistant's, got {shown(last)}")
        value = last.get("content")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"there is no answer to learn from: got {shown(value)}, must be a text")
    return turns, value


def conversation_text(messages: Sequence[Message]) -> str:
    """The messages as a text for people: a single one of the user as it is, others each after their role."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
