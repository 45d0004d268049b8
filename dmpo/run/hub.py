"""Upload the trained model of a run to the Hugging Face hub, with its model card."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HTTPError  # of httpx, or of its successor
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..distributed.ranks import from_main
from .model_copy import write_model


def push_to_hub(
    accelerator: Accelerator,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    card: Callable[[str], ModelCard],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload the model (or the adapter), the tokenizer and README.md in one commit. All ranks call it together.

    The repository is made first, before the weights are gathered, so that a wrong token fails at once.

    Args:
        model: the result of `accelerator.prepare`.
        card: makes the model card from the whole id of the repository.
        repo_id: "owner/name", or "name" for a repository of the token's user.
        private, revision, commit_message, token, endpoint: as in `huggingface_hub.HfApi`.

    Returns the address of the commit, on every rank.

    Raises:
        ValueError: the id is none, or the hub cannot be reached or refuses.
    """
    api = HfApi(endpoint=endpoint, token=token)

    def create() -> str:
        return api.create_repo(repo_id, private=private, exist_ok=True).repo_id

    whole_id = from_main(accelerator, lambda: _asked(api, repo_id, create))
    main = accelerator.is_main_process
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_model(model, tokenizer, folder, main=main)

        def upload() -> str:
            card(whole_id).save(folder / "README.md")
            message = commit_message or "Upload a model that dmpo trained"
            commit = api.upload_folder(repo_id=whole_id, folder_path=folder, revision=revision, commit_message=message)
            return str(commit.commit_url)

        return from_main(accelerator, lambda: _asked(api, repo_id, upload))


def _asked(api: HfApi, repo_id: str, request: Callable[[], str]) -> str:
    try:
        return request()
    except (OSError, HTTPError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{repo_id} cannot be uploaded to {api.endpoint}: {reason}") from error
