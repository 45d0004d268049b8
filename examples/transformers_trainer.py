"""The loss inside transformers.Trainer: one method, `compute_loss`.

    python examples/transformers_trainer.py

The Trainer wants a data set. Here each item is a group: completions of one prompt, already drawn, rewarded and weighed.
The Trainer then runs one round of DMPO, with its own optimiser, schedule, accumulation and logging.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

import dmpo
from dmpo.models.masked_lm import unwrap
from dmpo.randomness import derive_key
from dmpo.tasks import load_task

GROUP, LENGTH, REPLICATES = 8, 16, 2


def draw_groups(model: PreTrainedModel, prompts: int) -> list[dict[str, Tensor]]:
    """One item a prompt: `prompt_ids` [G, P], `completions` [G, L], `weights` [G], `baseline` [G] and `row_ids` [G].

    None of them is called `labels`: a column of that name changes how the Trainer averages over accumulated batches.
    """
    task, tokenizer, groups = load_task("sudoku4"), dmpo.load_tokenizer("sudoku-tiny"), []
    for index in range(prompts):
        row, row_ids = task.row("train", index), torch.arange(GROUP) + index * GROUP
        prompt_ids = tokenizer([row["prompt"]] * GROUP, return_tensors="pt").input_ids
        decoding: Any = {"decoder": "topk", "gen_length": LENGTH, "block_length": LENGTH, "steps": 4}
        sequences = dmpo.generate(model, prompt_ids, **decoding, temperature=1.0, row_ids=row_ids).sequences
        tokens = sequences[:, prompt_ids.shape[1] :]
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        rewards = torch.tensor(task.reward(texts, **{name: [row[name]] * GROUP for name in row}))
        # The policy has not moved away from the reference yet: the log-probabilities of both are equal and cancel out.
        equal = torch.zeros(GROUP)
        weights = dmpo.importance_weights(rewards, equal, equal, alpha=0.1)
        assert weights.negative is not None
        item = {"prompt_ids": prompt_ids, "completions": tokens, "row_ids": row_ids}
        groups.append({**item, "weights": weights.positive, "baseline": weights.negative})
    return groups


class DMPOLossTrainer(Trainer):
    """transformers.Trainer with the weighted denoising cross-entropy of whole groups."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Fresh views of the groups of a batch; each tensor of `inputs` is [groups, G, ...]."""
        prompt_ids, tokens = inputs["prompt_ids"].flatten(0, 1), inputs["completions"].flatten(0, 1)
        key = derive_key(self.args.seed, "views", self.state.global_step)
        eligible = torch.ones_like(tokens, dtype=torch.bool)
        masked = dmpo.sample_views(eligible, REPLICATES, key=key, row_ids=inputs["row_ids"].flatten())
        targets = tokens.repeat(REPLICATES, 1)  # row = view · B + completion
        view = targets.masked_fill(masked, unwrap(model).config.mask_token_id)
        output = model(torch.cat([prompt_ids.repeat(REPLICATES, 1), view], 1))
        logits = output.logits[:, prompt_ids.shape[1] :]
        loss = dmpo.WDCELoss(replicates=REPLICATES)(logits, targets, masked, inputs["weights"], inputs["baseline"])
        return (loss, output) if return_outputs else loss


def main() -> DMPOLossTrainer:
    model = dmpo.load_model("sudoku-tiny")
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="transformers-trainer-"),
        per_device_train_batch_size=2,  # groups
        gradient_accumulation_steps=2,
        max_steps=4,
        learning_rate=1e-4,
        max_grad_norm=1.0,
        logging_steps=1,
        remove_unused_columns=False,  # the Trainer would drop all columns that the model's forward does not name
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    trainer = DMPOLossTrainer(model=model, args=arguments, train_dataset=draw_groups(model, prompts=8))
    trainer.train()
    return trainer


if __name__ == "__main__":
    main()
