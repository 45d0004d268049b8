"""Completions in the files of other projects, whatever the names of their fields."""

from __future__ import annotations

from pathlib import Path

from ..tasks.record_columns import field_of
from ..tasks.records import Record, read_json_records
from .folder import FINGERPRINT
from .lm_eval import is_sample, sample_records

COMPLETIONS = ("completion", "completions", "generations", "generation", "response", "output", "prediction")


def read_records(path: Path) -> list[Record]:
    """The records of a JSON file (a list, or an object with a list), of a file of JSON lines, or of all such files in a
    folder: of a folder of `dmpo eval` results.jsonl, of a folder of lm-eval the samples.

    An object's `gen_length` is the default for its records.

    Raises:
        ValueError: the file does not exist, has no records, or has a record that is no JSON object; with file and line.
    """
    if (path / FINGERPRINT).is_file():
        return read_records(path / "results.jsonl")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".jsonl"))
        samples = [file for file in files if file.name.startswith("samples_") and file.suffix == ".jsonl"]
        records = [record for file in samples or files for record in read_records(file)]
        if not records:
            raise ValueError(f"folder {path} holds no .json or .jsonl file")
        return records
    records, around = read_json_records(path)
    if is_sample(records[0]):
        try:
            return sample_records(records)
        except ValueError as error:
            raise ValueError(f"file {path}, {error}") from None
    shared = {"gen_length": around["gen_length"]} if "gen_length" in around else {}
    return [shared | record for record in records]


def completions_of(record: Record, name: str | None) -> list[str]:
    """One completion, or several samples of one example; null is the empty text, which has no answer."""
    names = COMPLETIONS if name is None else (name,)
    if any(key in record for key in names) and all(record.get(key) is None for key in names):
        return [""]
    value = field_of(record, name, COMPLETIONS, "completion")
    texts = ["" if text is None else text for text in (value if isinstance(value, list) else [value])]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"completion must be a text or a list of texts, got {value!r:.80}")
    return texts
