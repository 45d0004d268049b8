"""Prompt templates: in the text, `{name}` stands for a column of the row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .options import check_texts

_FIELD = re.compile(r"\{([a-z_]+)\}")


def choose_template(template: str | None, template_file: str | None, default: str, fields: tuple[str, ...]) -> str:
    """The template, given as a text or as the path of a text file; without both, the default.

    Raises:
        ValueError: an argument is no text, both are given, the file cannot be read, or the template lacks a field.
    """
    check_texts(template=template, template_file=template_file)
    if template_file is not None:
        if template is not None:
            raise ValueError("got both template and template_file; give template or template_file, not both")
        try:
            template = Path(template_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"template_file {template_file} cannot be read: {error}") from error
    chosen = default if template is None else template
    for field in fields:
        if f"{{{field}}}" not in chosen:
            where = f" ({template_file})" if template_file is not None else ""
            raise ValueError(f"template must contain {{{field}}}, got {chosen[:200]!r}{where}")
    return chosen


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with every `{name}` of `values` replaced in one pass. Other braces do not change."""
    return _FIELD.sub(lambda match: values.get(match[1], match[0]), template)


def worked_example(steps: str, answer: str) -> str:
    """A completion in the form that the prompts ask for, with reasoning and answer in tags."""
    return f"<reasoning>\n{steps.strip()}\n</reasoning>\n<answer>\n{answer}\n</answer>"
