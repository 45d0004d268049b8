"""The loss on a model whose code comes from somebody else's repository.

    python examples/remote_code_model.py

Such a model is loaded by `AutoModel.from_pretrained(name, trust_remote_code=True)` and has a `forward` of its own. dmpo
runs no remote code, so `RemoteModel` below stands in for it. The losses need tensors alone:

- `WDCELoss` needs the logits of the masked views.
- `LinearWDCELoss` needs the last hidden states after the last norm, and the weight of the head. It never builds the
  logits of a batch, which for a vocabulary of 126,464 is most of the memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from dmpo import LinearWDCELoss, WDCELoss, importance_weights, sample_views


class RemoteConfig(PreTrainedConfig):
    """The file that a repository calls configuration_remote.py."""

    model_type = "remote"

    def __init__(self, vocab_size: int = 8, width: int = 32, mask_token_id: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocab_size, self.width, self.mask_token_id = vocab_size, width, mask_token_id


class RemoteModel(PreTrainedModel):
    """The file that a repository calls modeling_remote.py: a bidirectional encoder with a head."""

    config_class = RemoteConfig

    def __init__(self, config: RemoteConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.block = nn.GRU(config.width, config.width // 2, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(config.width)
        self.ff_out = nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.ff_out

    def forward(self, input_ids: Tensor, output_hidden_states: bool = False) -> MaskedLMOutput:
        embedded = self.embed(input_ids)
        hidden = self.norm(self.block(embedded)[0])
        return MaskedLMOutput(
            logits=self.ff_out(hidden), hidden_states=(embedded, hidden) if output_hidden_states else None
        )


def both_losses(
    model: PreTrainedModel, prompt_ids: Tensor, tokens: Tensor, weights: Tensor, baseline: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """The same loss from logits and from hidden states; tokens [B, L], weights and baseline [B]."""
    replicates, length = 4, tokens.shape[1]
    masked = sample_views(torch.ones_like(tokens, dtype=torch.bool), replicates, key=step)  # [R · B, L]
    targets = tokens.repeat(replicates, 1)  # row = view · B + completion
    view = targets.masked_fill(masked, model.config.mask_token_id)
    output = model(torch.cat([prompt_ids.repeat(replicates, 1), view], 1), output_hidden_states=True)
    # A model of Dream's kind predicts position j by its output at j − 1: shift its outputs here, once, by
    # torch.cat([outputs[:, :1], outputs[:, :-1]], 1). LLaDA's outputs stand at their own positions.
    logits, hidden = output.logits[:, -length:], output.hidden_states[-1][:, -length:]
    head = model.get_output_embeddings().weight  # [V, H]
    arguments = (targets, masked, weights, baseline)
    return (
        WDCELoss(replicates=replicates)(logits, *arguments),
        LinearWDCELoss(replicates=replicates)(hidden, head, *arguments),
    )


def train(steps: int = 10) -> tuple[PreTrainedModel, list[float]]:
    """Train on one group of completions; returns the model and the mean reward before and after."""
    torch.manual_seed(0)
    model = RemoteModel(RemoteConfig())
    prompt_ids, shape = torch.full((64, 4), 7), (64, 6)
    # The method is off-policy: completions may come from anywhere, if their log-probability is known. These are drawn
    # uniformly from the 7 tokens that are not the mask. The new model, too, is close to uniform.
    tokens = torch.randint(1, model.config.vocab_size, shape)
    uniform = torch.full((64,), -shape[1] * torch.tensor(7.0).log().item())
    rewards = (tokens == 3).float().mean(-1)  # reward: the share of one token
    weights = importance_weights(rewards, uniform, uniform, alpha=0.1)
    assert weights.negative is not None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    shares = [share_of(3, model, prompt_ids, tokens)]
    for step in range(steps):
        from_logits, from_hidden = both_losses(model, prompt_ids, tokens, weights.positive, weights.negative, step)
        torch.testing.assert_close(from_hidden, from_logits)
        from_hidden.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, [*shares, share_of(3, model, prompt_ids, tokens)]


@torch.no_grad()
def share_of(token: int, model: PreTrainedModel, prompt_ids: Tensor, tokens: Tensor) -> float:
    """The mean probability of a token where all of the completion is masked."""
    masks = torch.full_like(tokens, model.config.mask_token_id)
    logits = model(torch.cat([prompt_ids, masks], 1)).logits[:, -tokens.shape[1] :]
    return logits.softmax(-1)[..., token].mean().item()


if __name__ == "__main__":
    before, after = train()[1]
    print(f"probability of the rewarded token: {before:.3f} before, {after:.3f} after")
