"""The training loop, read top to bottom: rollouts → importance weights → F weighted denoising steps, repeated.

Algorithm, section 7. Everything random is a function of (seed, purpose, step), so a run has no generator state; a
checkpoint is the weights, the optimiser, the round in hand and the numbers of the first evaluation.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .checkpoint import load_checkpoint, load_part, save_checkpoint
from .config import DMPOConfig
from .evaluate import Evaluation, evaluate_on_ranks
from .masked_lm import special_ids
from .metrics import step_metrics
from .models import load_model, load_tokenizer
from .objective import accumulate_gradient
from .policy import ReferencePolicy, add_lora
from .randomness import derive_key
from .report import Reporter, plot_run, summarise
from .rewards import Reward, load_object, score
from .rollout import Rollouts, collect, encode_prompts, training_row
from .run_folder import RunFolder
from .tasks import Task, load_task

log = logging.getLogger("dmpo")


class DMPOTrainer:
    """Trains a masked diffusion language model by distribution matching policy optimization.

    Args:
        config: the whole run.
        model, tokenizer, task, reward: in place of what the config names.

    Raises:
        ValueError: before anything is written or trained, for whatever the config, the output folder, the checkpoint,
            the task or the reward gets wrong.
    """

    def __init__(
        self,
        config: DMPOConfig,
        *,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        task: Task | None = None,
        reward: Reward | None = None,
    ) -> None:
        self.config = config
        self.accelerator = Accelerator(log_with=config.report_to or None, project_dir=config.output_dir)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        main = self.accelerator.is_main_process
        if self.world == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("launched on several ranks, but accelerate sees one; on CPUs set ACCELERATE_USE_CPU=true")
        if config.num_prompts % self.world:
            raise ValueError(f"num_prompts {config.num_prompts} must be a multiple of the {self.world} ranks")
        if config.eval_prompts < self.world:
            raise ValueError(f"eval_prompts {config.eval_prompts} must be at least the {self.world} ranks")
        if missing := set(config.report_to) - {str(tracker) for tracker in get_available_trackers()}:
            raise ValueError(
                f"report_to names {', '.join(sorted(missing))}, which accelerate knows not or finds not installed"
            )
        self.run = RunFolder(config, writes=main)
        self.task = task or load_task(config.task, **config.task_options)
        self.reward = reward or (load_object(config.reward, "reward") if config.reward else self.task.reward)
        self.tokenizer = tokenizer or load_tokenizer(config.model)
        self._check_reward_and_prompts()

        policy: Any = model or load_model(
            config.model, dtype=config.dtype, device="cpu", attn_implementation=config.attn_implementation
        )
        longest = config.max_prompt_length + config.gen_length
        if longest > policy.config.max_position_embeddings:
            limit = policy.config.max_position_embeddings
            raise ValueError(f"max_prompt_length + gen_length is {longest}, the model takes {limit} tokens")
        for name in ("early_stop", "truncate_at_eos"):
            if getattr(config, name) and special_ids(policy)[1] is None:
                raise ValueError(f"{name} needs an EOS token, and the model's config names none")
        if not config.lora_r and config.dtype != "float32":
            log.warning(
                "training every weight in %s loses updates below its resolution; set dtype=float32", config.dtype
            )
        torch.manual_seed(config.seed)  # LoRA's initial weights
        if config.lora_r:
            policy = add_lora(policy, rank=config.lora_r, alpha=config.lora_alpha, dropout=config.lora_dropout)
        self.policy = policy.to(self.accelerator.device)
        self.reference = ReferencePolicy(self.policy)
        self.trainable = [p for p in self.policy.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            self.trainable,
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
        )
        self.model, self.optimizer = self.accelerator.prepare(self.policy, optimizer)
        self.reporter, self.step, self.seconds_before = Reporter(config.max_steps, visible=main), 0, 0.0
        self.rollouts: Rollouts | None = None
        self.before: Evaluation | None = None

    def train(self) -> dict[str, Any]:
        """Run to `max_steps`; returns what summary.json holds."""
        config, self.start = self.config, time.perf_counter()
        if self.run.checkpoint:
            self._resume()
        self.run.start(config, self.step)
        if config.report_to:
            self.accelerator.init_trackers("dmpo", config={k: str(v) for k, v in dataclasses.asdict(config).items()})
        if self.before is None:
            self.before = self._evaluate("test")
            self.reporter.accuracy(0, self.before)
        with self.reporter.progress:
            while self.step < config.max_steps:
                if self.rollouts is None or self.step % config.gradient_steps == 0:
                    self.rollouts = self._collect()
                metrics = self._gradient_step(self.rollouts)
                self.step += 1
                last = self.step == config.max_steps
                if config.eval_steps and (self.step % config.eval_steps == 0 or last):
                    evaluation = self._evaluate("validation")
                    metrics |= {
                        "sampled_accuracy": evaluation.sampled.share,
                        "greedy_accuracy": evaluation.greedy.share,
                    }
                    self.reporter.accuracy(self.step, evaluation)
                self._log({"step": self.step, **metrics})
                if last or (config.save_steps and self.step % config.save_steps == 0):
                    self._save()
        after = self._evaluate("test")
        summary = self._finish(self.before, after, self._seconds())
        self.accelerator.wait_for_everyone()  # no rank leaves while another still needs it
        self.accelerator.end_training()
        return summary

    def _collect(self) -> Rollouts:
        return collect(
            self.policy,
            self.reference,
            self.tokenizer,
            self.task,
            self.reward,
            self.config,
            round_index=self.step // self.config.gradient_steps,
            rank=self.rank,
            world=self.world,
            device=self.accelerator.device,
            clock=self.run.clock,
        )

    def _gradient_step(self, rollouts: Rollouts) -> dict[str, float]:
        """One AdamW step on fresh views of the round."""
        config = self.config
        with self.run.clock("update"):
            torch.manual_seed(derive_key(config.seed, "dropout", self.step, self.rank))
            loss, ess = accumulate_gradient(self.accelerator, self.model, self.policy, rollouts, config, self.step)
            norm = self.accelerator.clip_grad_norm_(self.trainable, config.max_grad_norm)
            if not bool(torch.isfinite(norm)):
                raise FloatingPointError(f"gradient norm is {float(norm)} at step {self.step}, loss {float(loss)}")
            rate = config.learning_rate * min(1.0, (self.step + 1) / max(1, config.warmup_steps))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.optimizer.zero_grad()
        group = config.num_generations
        return {
            "round": self.step // config.gradient_steps,
            "learning_rate": rate,
            **step_metrics(self.accelerator, rollouts, group, loss=loss, grad_norm=norm, ess=ess),
        }

    def _check_reward_and_prompts(self) -> None:
        """A wrong reward, or a prompt too long among all that this run will see, is told before a model is loaded."""
        config = self.config
        drawn = config.num_prompts * -(-config.max_steps // config.gradient_steps)
        rows = [training_row(self.task, config.seed, index) for index in range(drawn)]
        held_out = [self.task.row(split, i) for split in ("validation", "test") for i in range(config.eval_prompts)]
        encode_prompts(self.tokenizer, rows + held_out, config.max_prompt_length)
        score(self.reward, ["", ""], {name: [rows[0][name]] * 2 for name in rows[0]})

    def _evaluate(self, split: str) -> Evaluation:
        with self.run.clock("evaluate"):
            return evaluate_on_ranks(self.accelerator, self.policy, self.tokenizer, self.task, self.config, split=split)

    def _log(self, metrics: dict[str, Any]) -> None:
        seconds = sum(self.run.seconds.values())
        completions = self.config.num_prompts * self.config.num_generations / self.config.gradient_steps
        self.reporter.step(metrics, completions / max(seconds, 1e-9))
        self.run.log(metrics)
        if self.config.report_to:
            self.accelerator.log({k: v for k, v in metrics.items() if k != "step"}, step=self.step)

    def _save(self) -> None:
        assert self.rollouts is not None
        assert self.before is not None
        with self.run.clock("checkpoint"):
            save_checkpoint(
                self.accelerator,
                self.run.checkpoints,
                self.step,
                self.policy,
                self.tokenizer,
                self.optimizer.optimizer,
                self.rollouts.tensors(),
                {"seconds": self._seconds(), "before": self.before.counts()},
                self.config.save_total_limit,
            )

    def _resume(self) -> None:
        path = self.run.checkpoint
        assert path is not None
        state = load_checkpoint(path, self.policy, self.optimizer.optimizer)
        self.step, self.seconds_before = state["step"], state["seconds"]
        if self.step % self.config.gradient_steps:
            if state["world"] != self.world:
                raise ValueError(f"{path} was saved amid a round by {state['world']} ranks, resumed by {self.world}")
            self.rollouts = Rollouts.from_tensors(load_part(path, self.rank), self.accelerator.device)
        rows = [self.task.row("test", index) for index in range(0, self.config.eval_prompts, state["world"])]
        self.before = Evaluation.from_counts(state["before"], rows)
        self.reporter.say(f"resumed from {path}, step {self.step} of {self.config.max_steps}")

    def _seconds(self) -> float:
        """Of the run so far, the parts before a resume included."""
        return self.seconds_before + time.perf_counter() - self.start

    def _finish(self, before: Evaluation, after: Evaluation, seconds: float) -> dict[str, Any]:
        facts: dict[str, Any] = {"steps": self.step, "seconds": seconds, "seed": self.config.seed}
        facts |= {"device": str(self.accelerator.device), "torch": torch.__version__}
        summary = summarise(before, after) | facts | {"output_dir": self.config.output_dir}
        if self.accelerator.is_main_process:
            self.run.write_summary(summary)
            title = f"{self.config.model} on {self.config.task}, seed {self.config.seed}"
            lines = (self.run.read("metrics.jsonl"), self.run.read("timings.jsonl"))
            plot_run(*lines, summary, title, self.run.path / "training.png")
            self.reporter.closing(before, after, self.task, summary)
        return summary
