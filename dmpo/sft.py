"""Supervised fine-tuning on the loop of every run: rows with answers → masks → one gradient step.

`dmpo.run.training` has the loop, `dmpo.objectives.denoising` the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from .config.sft import SFTConfig
from .distributed.accumulation import accumulate
from .distributed.ranks import rank_rows, summed, together
from .evaluation.demonstrations import SFTEvaluation, evaluate_demonstrations
from .models.masked_lm import special_ids, unwrap
from .models.tokenizer import load_tokenizer
from .objectives.denoising import blank_pass, loss_of_pass, masked, passes, reach_of_step
from .randomness import derive_key
from .rollouts.demonstrations import Demonstrations, sequences
from .rollouts.policy import make_policy, rollout_model
from .run.plots import plot_sft_run
from .run.preflight import check_held_out, check_model, fit_micro_batch
from .run.report import summarise_demonstrations
from .run.resumption import object_name
from .run.skipping import write_lines
from .run.step_log import MetricsLog
from .run.training import TrainingRun
from .tasks import RowObject, Task, describe_datasets, rows_of_evaluation, task_of_run


class SFTTrainer(TrainingRun[SFTEvaluation]):
    """Fine-tunes a masked diffusion language model on answers.

    Args:
        config: all keys of the run.
        model, tokenizer, task: objects to use in place of the names in the config. The task needs `demonstrate`.
        callbacks, train_dataset, eval_dataset: as of `DMPOTrainer`.

    Raises:
        TypeError: a callback is no `TrainerCallback`.
        ValueError: the config, the output folder, the checkpoint, the task or one of its rows is wrong. Raised before
            anything is written or trained.
    """

    config: SFTConfig

    def __init__(
        self,
        config: SFTConfig,
        *,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        task: Task | None = None,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
        train_dataset: RowObject | None = None,
        eval_dataset: RowObject | None = None,
    ) -> None:
        self._open(config, callbacks)
        objects = {"task": object_name(task)} if task is not None else {}
        self._open_folder(objects | describe_datasets(train_dataset=train_dataset, eval_dataset=eval_dataset))
        self.task = task_of_run(task, config.task, config.task_options, train_dataset, eval_dataset)
        self.tokenizer = tokenizer or load_tokenizer(config.model)
        check_held_out(config, self.task, self.accelerator)
        policy = make_policy(config, self.accelerator.device, model)
        check_model(config, policy)
        check_attention(config, unwrap(policy).block_size)
        mask_id, eos_ids = special_ids(policy)
        if not eos_ids:
            raise ValueError("an answer ends with EOS, and the model's config names none: give eos_id")
        self.demonstrations = Demonstrations(self.task, self.tokenizer, config, mask_id=mask_id, eos_id=eos_ids[0])
        self.demonstrations.check(config.max_steps)
        self.config = config = fit_micro_batch(config, policy, self.accelerator)
        self._prepare(policy)
        self.metrics_log = MetricsLog(self.accelerator, self.run, self.reporter, config=config)
        self._prepare_books(callbacks, self.tokenizer, reference=None, buffer=None)

    def _accumulate(self) -> tuple[float, dict[str, Any]]:
        """The gradient of the loss of the rows of this step."""
        config, world, mask_id = self.config, self.world, self.demonstrations.mask_id
        reach = reach_of_step(config, self.step)
        rows, numbers = together(lambda: self.demonstrations.of_step(self.step))
        layout: Any = {"padding": config.eos_padding, "length": config.gen_length}
        whole = sequences(rows, numbers, eos_id=self.demonstrations.eos_id, **layout)
        batch = masked(whole, derive_key(config.seed, "masks"), config)[rank_rows(len(rows), self.rank, world)]
        own = passes(batch, config, mask_id, rows=config.micro_batch_size or config.batch_size)
        count, blank = sum(len(one.targets) for one in own), blank_pass(batch, mask_id)
        self.model.train()

        def loss_of(number: int, live: bool) -> tuple[Tensor, Tensor]:
            one = own[number] if live and own else blank  # a rank without masked tokens makes a pass that counts 0
            loss = loss_of_pass(self.model, one.to(self.accelerator.device), reach=reach)
            return loss if own else loss * 0.0, loss.new_zeros(0)

        sums = accumulate(self.accelerator, self.model, max(1, len(own)), loss_of)
        loss, tokens = summed(self.accelerator, *sums, count)
        return loss, {"masked": int(tokens)} | ({"attention_reach": reach} if config.widen_attention_steps else {})

    def _evaluate(self, split: str) -> SFTEvaluation:
        with self.run.clock("evaluate"), rollout_model(self.model, self.config) as policy:
            return evaluate_demonstrations(
                self.accelerator, policy, self.tokenizer, self.task, self.demonstrations, self.config, split=split
            )

    def _measured(self, counts: dict[str, Any], world: int) -> SFTEvaluation:
        count = rows_of_evaluation(self.task, "test", self.config.eval_prompts)
        return SFTEvaluation.from_counts(counts, [self.task.row("test", index) for index in range(0, count, world)])

    def _say_accuracy(self, step: int, evaluation: SFTEvaluation) -> None:
        if evaluation.answers is not None:
            self.reporter.accuracy(step, evaluation.answers)
        where = f"step {step:<4} validation" if step else "start     test      "
        self.reporter.say(f"{where}  loss {evaluation.loss:.4g}")

    def _start_trackers(self) -> None:
        self.metrics_log.start()

    def _log(self, metrics: dict[str, Any], *, reports: bool = True) -> None:
        rows = self.config.batch_size
        self.metrics_log.write(metrics, lambda seconds: [f"{rows / seconds:.0f} rows/s"], reports=reports)

    def _write_evidence(self, folder: Path) -> None:
        rows, numbers = self.demonstrations.of_step(self.step - 1)
        own = range(len(rows))[rank_rows(len(rows), self.rank, self.world)]
        texts = [[self.tokenizer.decode(ids) for ids in (rows[i].prompt, rows[i].answer)] for i in own]
        lines = [
            {"row_id": numbers[i], "prompt": prompt, "answer": answer}
            for i, (prompt, answer) in zip(own, texts, strict=True)
        ]
        write_lines(folder, self.rank, lines)

    def _finish(self, before: SFTEvaluation, after: SFTEvaluation, seconds: float) -> dict[str, Any]:
        summary = summarise_demonstrations(before, after) | self._facts(seconds)
        summary |= {"output_dir": self.config.output_dir}
        if self.accelerator.is_main_process:
            self.run.write_summary(summary)
            title = f"{self.config.model} on {self.config.task}, seed {self.config.seed}"
            lines = (self.run.read("metrics.jsonl"), self.run.read("timings.jsonl"))
            plot_sft_run(*lines, summary, title, self.run.path / "training.png")
            self.reporter.say(f"held-out loss {before.loss:.4g} before, {after.loss:.4g} after")
            if before.answers is not None and after.answers is not None:
                self.reporter.closing(before.answers, after.answers, self.task, summary)
        return summary


def check_attention(config: SFTConfig, block_size: int | None) -> None:
    """Raise ValueError for keys that do not go with the attention of the model; block_size: of a block-causal one."""
    if block_size and config.eos_padding == "none":
        raise ValueError("eos_padding must be batch or full for a block-causal model, whose blocks have one length")
    steps, attention = config.widen_attention_steps, config.attn_implementation
    if steps and block_size:
        raise ValueError(f"widen_attention_steps must be 0 for a block-causal model, got {steps}")
    if steps and attention not in ("sdpa", "eager"):
        raise ValueError(f"attn_implementation must be sdpa or eager with widen_attention_steps, got {attention}")
