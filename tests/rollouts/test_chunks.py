"""If these fail, a pass has more tokens than `dmpo plan` allows, loses or repeats a row, or carries blank columns."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.models.tokenizer import padding
from dmpo.rollouts.chunks import PassLimits, chunks, view_order


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    prompts=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    replicates=st.integers(1, 4),
    size=st.integers(1, 9),
    data=st.data(),
)
def test_every_row_once_within_the_limits(prompts: list[int], replicates: int, size: int, data: st.DataObject) -> None:
    completion, width = 5, max(prompts) + data.draw(st.integers(0, 2))
    lengths = torch.tensor(prompts).repeat(replicates)
    mask = torch.arange(width) >= width - lengths.unsqueeze(1)
    read = torch.tensor([data.draw(st.integers(0, completion)) for _ in lengths])
    limits = PassLimits.of_rows(size, 9, completion, 0.6)
    found = chunks(mask, read, completion, limits, view_order(len(prompts), replicates))
    assert torch.cat([chunk.index for chunk in found]).sort().values.tolist() == list(range(len(lengths)))
    for chunk in found:
        assert (chunk.blank, chunk.padded) == padding(mask[chunk.index])
        count, columns = len(chunk.index), width - chunk.blank + completion
        assert count * columns <= limits.tokens == size * 14
        assert count <= size or read[chunk.index].sum() <= limits.head_rows
    for one, other in itertools.pairwise(found):  # the next row would not have fitted
        count, columns = len(one.index) + 1, width - one.blank + completion
        reads = int(read[one.index].sum() + read[other.index[0]])
        assert count * columns > limits.tokens or (count > size and reads > limits.head_rows)


def test_views_of_one_completion_pass_together_and_short_prompts_fill_a_pass() -> None:
    """Prompts of 2, 8, 2 and 6 tokens, two views of each; two rows of 8 + 4 tokens at a time, or as many tokens."""
    mask = torch.arange(8) >= 8 - torch.tensor([2, 8, 2, 6] * 2).unsqueeze(1)
    read = torch.full((8,), 2)
    limits = PassLimits.of_rows(2, 8, 4)
    found = [chunk.index.tolist() for chunk in chunks(mask, read, 4, limits, view_order(4, 2))]
    assert found == [[1, 5], [3, 7], [0, 4, 2, 6]]
    assert [chunk.index.tolist() for chunk in chunks(mask, read * 2, 4, limits)] == [[1, 5], [3, 7], [0, 2], [4, 6]]


def test_no_rows_are_one_empty_chunk() -> None:
    (chunk,) = chunks(torch.ones(0, 3).bool(), torch.ones(0), 4, PassLimits.of_rows(2, 3, 4))
    assert (chunk.index.tolist(), chunk.blank, chunk.padded) == ([], 0, False)
