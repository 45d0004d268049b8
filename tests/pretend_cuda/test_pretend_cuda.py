"""If these fail, a path for a GPU gives other values than the CPU, mixes devices, or waits where it should not.

No GPU takes part: see `device.pretend_cuda`. All cases run in one process of their own, before the first test.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.pretend_cuda import decoder_group, faults_group, launch_part_group, ops_group, round_group, trainer_group
from tests.pretend_cuda.hooks import refusal
from tests.pretend_cuda.run import Results, run_groups
from tests.pretend_cuda.table import COMMAND, DATA, PAGE, figures, page, versions
from tests.pretend_cuda.waits import (
    CHUNKS,
    ENDED_ROWS,
    FIRST_DRAW,
    LOOK,
    MASKED_ROWS,
    PADDING,
    ROUND,
    SCORED_ROWS,
    UP_FRONT,
    UP_FRONT_PADDED,
)

GROUPS = {
    module.__name__.rsplit(".", 1)[1]: module
    for module in (ops_group, decoder_group, round_group, trainer_group, faults_group, launch_part_group)
}
TOLERANCE = {"fp32": 2e-6, "fp16": 1.5e-3}  # of the largest entry: a few roundings of the dtype
ROUNDING = 1e-5  # of losses and gradients after several layers, float32


@pytest.fixture(scope="session")
def results() -> Results:
    if reason := refusal():
        pytest.skip(reason)
    return run_groups(*GROUPS)


def case_of(results: Results, group: str, name: str) -> dict[str, Any]:
    row = results[group][name]
    assert "error" not in row, row["error"]
    return row


def every(module: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", list(module.CASES))


# ---------------------------------------------------------------------------------------------- ops


@every(ops_group)
def test_an_op_gives_the_values_of_its_reference(results: Results, name: str) -> None:
    row = case_of(results, "ops_group", name)
    assert all(row["exact"].values()), row["exact"]
    tolerance = TOLERANCE[ops_group.CASES[name].dtype]
    assert row["errors"] == {key: pytest.approx(0.0, abs=tolerance) for key in row["errors"]}


@every(ops_group)
def test_an_op_waits_only_for_a_number_of_rows(results: Results, name: str) -> None:
    case = ops_group.CASES[name]
    wanted: dict[str, int] = {}
    if case.op == "linear_weighted_ce":
        wanted = {MASKED_ROWS: 1}
    elif case.op == "linear_token_logprobs" and case.trained:
        wanted = {"nonzero dmpo/kernels/linear_ce/token_operators.py:recompute_op": 1}
    assert case_of(results, "ops_group", name)["syncs"] == wanted


# ---------------------------------------------------------------------------------------------- decoding


@every(decoder_group)
def test_a_decoder_draws_the_tokens_of_the_cpu(results: Results, name: str) -> None:
    row = case_of(results, "decoder_group", name)
    assert row["same"] == 1.0
    assert row["log_prob_error"] < ROUNDING
    assert row["forwards"][0] == row["forwards"][1]


@every(decoder_group)
def test_a_step_waits_once_at_most_and_never_where_counts_are_known(results: Results, name: str) -> None:
    case, row = decoder_group.CASES[name], case_of(results, "decoder_group", name)
    looks_every_step = case.decoder in decoder_group.LOOKS or {"threshold", "factor"} & case.options.keys()
    looks_at_ends = case.options.get("early_stop", False) and not looks_every_step
    steps = [{place: count for place, count in step["syncs"].items() if place != FIRST_DRAW} for step in row["steps"]]
    per_block = len(steps) // 2
    for number, syncs in enumerate(steps):
        ends_block = number % per_block == per_block - 1
        looks = {LOOK: 1} if looks_every_step else {ENDED_ROWS: 1} if looks_at_ends and ends_block else {}
        assert syncs == looks, f"step {number}"
    assert row["before"] == (UP_FRONT_PADDED if case.padded else UP_FRONT)


@pytest.mark.parametrize("name", [name for name in decoder_group.CASES if name.startswith("compiled")])
def test_a_compiled_step_does_the_same_in_every_block_and_never_waits(results: Results, name: str) -> None:
    """So one graph serves all steps."""
    graphs = case_of(results, "decoder_group", name)["graphs"]
    assert len(graphs) > 2
    graphs = [{**graph, "syncs": {k: n for k, n in graph["syncs"].items() if k != FIRST_DRAW}} for graph in graphs]
    assert all(graph == graphs[0] for graph in graphs)
    assert graphs[0]["syncs"] == {}


def test_a_compiled_step_is_its_graph_alone(results: Results) -> None:
    """By a schedule. The first one also keeps what it restores if it fails; a later one is one replay."""
    beside = case_of(results, "decoder_group", "compiled")["beside graphs"]
    nothing: dict[str, Any] = {"launches": {}, "syncs": {}}
    assert beside == [{"launches": {"clone": 5}, "syncs": {}}, nothing, nothing, nothing]


# ---------------------------------------------------------------------------------------------- a round


@every(round_group)
def test_a_round_gives_the_loss_and_gradient_of_the_cpu(results: Results, name: str) -> None:
    row = case_of(results, "round_group", name)
    assert row["same"] == 1.0
    assert row["missing"] == []
    assert row["loss"][0] == pytest.approx(row["loss"][1], rel=ROUNDING, abs=ROUNDING)
    assert row["gradient_error"] < ROUNDING
    for key, (found, wanted) in row["reports"].items():
        assert found == pytest.approx(wanted, rel=ROUNDING, abs=ROUNDING, nan_ok=True), key


@every(round_group)
def test_a_round_waits_where_it_is_known_to_wait(results: Results, name: str) -> None:
    phases = case_of(results, "round_group", name)["phases"]
    unknown = {
        f"{phase}: {place}": count
        for phase, counts in phases.items()
        for place, count in counts["syncs"].items()
        if count > ROUND[phase].get(place, 0)
    }
    assert unknown == {}, "the host waits for the device in a new place, or more often than it did"


def test_scoring_waits_once_for_its_lengths_and_for_its_rows_in_every_pass(results: Results) -> None:
    syncs = case_of(results, "round_group", "wdce")["phases"]["score"]["syncs"]
    passes = 4  # two batches of views under two policies
    assert syncs[SCORED_ROWS] == passes + 1  # the entropy's own pass
    assert (syncs[CHUNKS], syncs[PADDING]) == (2, 1)


def test_an_update_waits_once_for_its_lengths_and_for_its_rows_in_every_micro_batch(results: Results) -> None:
    syncs = case_of(results, "round_group", "wdce")["phases"]["update"]["syncs"]
    micro_batches = 2
    assert syncs[MASKED_ROWS] == micro_batches
    assert syncs[SCORED_ROWS] == micro_batches
    assert syncs[CHUNKS] == 1


# ---------------------------------------------------------------------------------------------- the trainer


@every(trainer_group)
def test_a_resumed_run_logs_what_the_cpu_logs_without_an_interruption(results: Results, name: str) -> None:
    row = case_of(results, "trainer_group", name)
    assert row["device"] == "cuda:0"
    assert row["checkpoints"] == ["step-2", "step-3"]
    found, wanted = row["metrics"]
    assert [step["step"] for step in found] == [1, 2, 3]
    assert any(step["grad_norm"] > 0 for step in found)
    for step, other in zip(found, wanted, strict=True):
        assert step == {key: pytest.approx(value, rel=1e-4, abs=1e-5) for key, value in other.items()}
    assert row["accuracies"][0] == row["accuracies"][1]


# ---------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("host tensor in an operator", r"aten.add.Tensor got tensors of the host beside cuda:0: torch.float32 [4]"),
        ("host tensor in a decoder", "dmpo/decoding/passes.py:__call__"),
        ("host pointer in a kernel", "kernel _tile_stats got pointers to the host's memory"),
    ],
)
def test_a_host_tensor_beside_the_device_is_refused(results: Results, name: str, message: str) -> None:
    assert message in case_of(results, "faults_group", name)["raised"]


def test_each_kind_of_copy_is_a_wait_but_the_one_from_pinned_memory(results: Results) -> None:
    kinds = ("copy to host", "copy from host", "copy from host of an index", "nonzero of an index")
    wanted = {f"{kind} elsewhere": 1 for kind in (*kinds, "_local_scalar_dense")}
    assert case_of(results, "faults_group", "copies")["syncs"] == wanted


def test_an_item_in_a_step_is_counted_and_named(results: Results) -> None:
    inserted = "_local_scalar_dense dmpo/decoding/passes.py:__call__"
    steps = case_of(results, "faults_group", "item in a step")["syncs"]
    assert [step.get(inserted) for step in steps] == [1] * len(steps)


def test_a_wrong_value_of_a_kernel_shows_in_the_tokens(results: Results) -> None:
    assert case_of(results, "faults_group", "wrong value of a kernel")["same"] < 1.0
    assert case_of(results, "faults_group", "no fault")["same"] == 1.0


# ---------------------------------------------------------------------------------------------- the table


@pytest.fixture(scope="session")
def table() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DATA.read_text())
    return loaded


@every(launch_part_group)
def test_the_table_has_the_launches_of_the_code(results: Results, table: dict[str, Any], name: str) -> None:
    if table["versions"] != versions():
        pytest.skip(f"counted with {table['versions']}, and these are {versions()}")
    counted = figures(case_of(results, "launch_part_group", name))
    assert (table["passes"] | table["ops"]).get(name) == counted, f"{COMMAND} writes the table anew"


def test_the_page_shows_the_table(table: dict[str, Any]) -> None:
    assert PAGE.read_text() == page(table), f"{COMMAND} writes the page anew"


def test_the_figures_of_a_row_agree(table: dict[str, Any]) -> None:
    for name, row in table["passes"].items():
        assert row["launches"] == table["layers"] * row["layer"] + row["outside"], name
        assert row["layer"] == sum(row["layer_operators"].values()), name
        assert row["outside"] == sum(row["outside_operators"].values()), name
    for name, row in table["ops"].items():
        assert row["launches"] == sum(row["operators"].values()), name
