"""Samples of the lm-evaluation-harness (`samples_*.jsonl`, of `lm_eval --log_samples`) as records of completions.

A sample has four fields. `doc` is the row of the data set, `target` its right answer. `resps` has, for each request of
the document, the model's texts. `filter` is a filter of the task: there is one sample for each document and filter.
"""

from __future__ import annotations

from ..tasks.records import Record


def is_sample(record: Record) -> bool:
    """Whether a record is such a sample."""
    return "resps" in record


def sample_records(samples: list[Record]) -> list[Record]:
    """One record for each document: the columns of its row, `completion` (all texts of `resps`), `ground_truth`
    and `prompt`.

    The samples of the first filter count, because all filters have the same texts.

    Raises:
        ValueError: a sample whose `resps` are no texts; names it.
    """
    chosen = samples[0].get("filter")
    records = []
    for number, sample in enumerate(samples):
        if sample.get("filter") == chosen:
            try:
                records.append(_record(sample))
            except ValueError as error:
                raise ValueError(f"record {number}: {error}") from None
    return records


def _record(sample: Record) -> Record:
    resps = sample.get("resps")
    texts = [
        text
        for texts in (resps if isinstance(resps, list) else [resps])
        for text in (texts if isinstance(texts, list) else [texts])
    ]
    if not texts or not all(text is None or isinstance(text, str) for text in texts):
        raise ValueError(f"resps must hold texts, got {resps!r:.80}: the task of lm-eval lets the model write nothing")
    row = sample["doc"] if isinstance(sample.get("doc"), dict) else {}
    own = {"completion": texts, "resps": texts, "ground_truth": sample.get("target"), "prompt": _prompt(sample)}
    return {**sample, **row, **{name: value for name, value in own.items() if value is not None}}


def _prompt(sample: Record) -> str | None:
    """The text of the first request: `[["text", {...}]]`, or `{"gen_args_0": {"arg_0": "text"}}` of later releases."""
    value = sample.get("arguments")
    while isinstance(value, list | dict) and value:
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    return value if isinstance(value, str) else None
