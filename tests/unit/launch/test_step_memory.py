"""The memory of a step against numbers worked out by hand, for a model whose sizes are powers of two."""

from dataclasses import replace

import pytest

from xtuner.launch.model_sizes import ModelSizes
from xtuner.launch.step_memory import StepMemory
from xtuner.v1.config.files import resolve_config
from xtuner.v1.config.memory import BlockShape

MIB = 2**20
# A block of 2**22 parameters, four of them, and 2**22 in embedding and head, which are one matrix.
SIZES = ModelSizes(
    block=BlockShape(hidden_size=512, num_heads=8, num_kv_heads=8, head_dim=64, inner_size=2048),
    num_layers=4,
    vocab_size=2**13,
    num_outside=2**22,
    num_in_matrices=2**24,
    num_in_vectors=0,
    adapter_dims=2**14,
    frozen_bytes=2,
    stored_bytes=2 * (2**24 + 2**22),
)
P = 80  # MiB of parameters in fp32


def _moments(kind="cpu", world_size=1, **options):
    """Loss, three moments of each block from the first to the last, two of the embedding; MiB, without weights."""
    config = resolve_config({"load_from": "m", "dataset": "d", "pack_max_length": 2048, **options})
    step = StepMemory(config, SIZES, kind, world_size)
    moments = list(step.moments())
    assert [moment.moment for moment in moments] == ["loss", *["backward"] * 12, *["embedding"] * 2]
    assert step.peak() == max(moments, key=lambda parts: parts.total)
    names = ("gradients", "activations", "logits", "workspace")
    return step, [tuple(getattr(moment, name) / MIB for name in names) for moment in moments]


# MiB of 2,048 tokens in fp32: of the hidden size, of the MLP's size, of a number for each head.
H, F, LSE = 4, 16, 1 / 16
KEPT = 6 * H + 4 * H + LSE + 4 * F  # norms with their inputs; queries, keys, values, output; gate, up, silu, product


def test_a_block_keeps_what_autograd_does():
    block = SIZES.block
    assert block.kept_bytes(4, 1, "cpu") * 2048 == KEPT * MIB
    # In bf16 the input of each norm is copied to fp32, all else is half as large.
    assert block.kept_bytes(2, 1, "cpu") * 2048 == (2 * H + 2 * 2 * H / 2 + 4 * H / 2 + LSE + 4 * F / 2) * MIB
    assert block.kept_bytes(4, 2, "cpu") * 2048 == (6 * H + (4 * H + LSE + 4 * F) / 2) * MIB
    normed = BlockShape(512, 8, 4, 64, 2048, has_head_norms=True)
    plain = BlockShape(512, 8, 4, 64, 2048)
    # What goes into the norm and what is normalised, of eight heads and of four.
    assert (normed.kept_bytes(4, 1, "cpu") - plain.kept_bytes(4, 1, "cpu")) * 2048 == 2 * (H + H / 2) * MIB
    # The kernel of a GPU keeps what goes in, of the head norms too.
    assert block.kept_bytes(2, 1, "cuda") * 2048 == (4 * H / 2 + 4 * H / 2 + LSE + 4 * F / 2) * MIB
    assert (normed.kept_bytes(2, 1, "cuda") - plain.kept_bytes(2, 1, "cuda")) * 2048 == (H / 2 + H / 4) * MIB
    other = replace(block, has_plain_norms=False)
    assert other.kept_bytes(2, 1, "cuda") == block.kept_bytes(2, 1, "cpu")
    assert block.passing_bytes(4, 1) * 2048 == (H + 2 * F) * MIB


def test_one_rank_in_fp32():
    step, moments = _moments()
    assert (step.parameters, step.gradients, step.optimizer) == (P * MIB, P * MIB, 2 * P * MIB)
    # The last norm keeps 3 H, the rows for the head and their gradients are 2 H; a chunk has 1,024 rows of logits.
    assert moments[0] == (0, 4 * KEPT + 5 * H, 32, 16 + 16)
    # The last block: embedding and head gathered and the head's gradient, its weights, what passes the MLP.
    assert moments[10] == (0, 4 * KEPT + H + 2 * F, 0, 16 + 16 + 16)
    # Its end: its gradients are there, what it kept is not.
    assert moments[11] == (0, 3 * KEPT + 2 * H, 0, 16 + 16 + 16 + 16)
    # They are copied for the reduction, and the result is the gradient.
    assert moments[12] == (16, 3 * KEPT + H, 0, 16 + 16 + 16 + 16)
    # The first block: gradients of three, and the buffer of the second one's.
    assert moments[1] == (48, KEPT + H + 2 * F, 0, 16 + 16 + 16 + 16)
    # The embedding's gradient beside the head's; then the reduction of both.
    assert moments[13] == (64, H, 0, 16 + 2 * 16 + 16)
    assert moments[14] == (80, 0, 0, 16 + 16)


def test_ranks_hold_buffers_of_what_is_gathered_ahead():
    one_step, one = _moments()
    step, two = _moments(world_size=2)
    assert two[0] == (0, *one[0][1:3], one[0][3] + 16)  # the last block's, until the forward pass is over
    assert two[10] == (0, *one[10][1:3], one[10][3] + 2 * 16)  # the third one is on its way, through a copy of gloo's
    assert two[1] == (24, *one[1][1:])  # and before the first there is none
    assert two[12] == (8, *one[12][1:3], one[12][3] + 2 * 16)  # what is reduced passes through a copy too
    assert two[14][3] == one[14][3] + 16
    assert (one_step.scattered, step.scattered) == (0, 2 * P * MIB)
    _, further = _moments(world_size=2, fsdp_config={"prefetch": 2})
    assert further[10][3] == one[10][3] + 2 * 32
    _, gathered = _moments(world_size=2, fsdp_config={"reshard_after_forward": False})
    assert gathered[10][3] == one[10][3] + 3 * 16
    _, on_devices = _moments("cuda", world_size=2, fsdp_config={"compute_dtype": "float32", "recompute_ratio": 0.0})
    # NCCL needs none, and the norms keep their inputs alone.
    assert on_devices[10] == (0, one[10][1] - 4 * 2 * H, one[10][2], one[10][3] + 16)


def test_recomputed_blocks_keep_their_inputs():
    step, moments = _moments(fsdp_config={"recompute_ratio": 0.5})
    assert step.scattered == 0
    assert _moments(fsdp_config={"recompute_ratio": 1.0})[0].scattered == (KEPT - H) * MIB
    assert moments[0][1] == 2 * H + 2 * KEPT + 5 * H
    assert moments[4][1] == 2 * H + (KEPT - H) + H + 2 * F  # the second, whose input is kept already
    assert moments[7][1] == 2 * H + KEPT + H + 2 * F  # the third is not computed again


def test_gradients_of_earlier_packs_are_there_all_the_time():
    _, moments = _moments(global_batch_size=2)
    assert {gradients for gradients, *_ in (moments[0], *moments[1::3])} == {P}


def test_bf16_on_an_accelerator():
    _, moments = _moments("cuda", fsdp_config={"recompute_ratio": 0.0})
    kept = 8 + 8 + LSE + 32
    # The last norm: its input and output; rows and their gradients. Logits in both dtypes.
    assert moments[0] == (0, 4 * kept + 2 + 2 + 2 + 2, 48, 8 + 16 + 8)
    assert moments[11] == (0, 3 * kept + 2 * 2, 0, 8 + 8 + 8 + 8)
    assert moments[12] == (16, 3 * kept + 2, 0, 8 + 8 + 8 + 16)  # reduced in fp32


def test_offloaded_states_are_not_on_the_device():
    step, moments = _moments("cuda", fsdp_config={"cpu_offload": True})
    assert step.is_offloaded and all(gradients == 0 for gradients, *_ in moments)
    assert step.peak().parameters == step.peak().optimizer == 0 < step.parameters
    assert not _moments("cpu", fsdp_config={"cpu_offload": True})[0].is_offloaded


def test_adapters_have_the_gradients():
    config = resolve_config({"load_from": "m", "dataset": "d", "pack_max_length": 2048, "lora": {"rank": 8}})
    step = StepMemory(config, SIZES, "cpu", 1)
    trained = 8 * 2**14
    assert step.gradients == 4 * trained and step.optimizer == 8 * trained
    assert step.parameters == 4 * (2**24 + 2**22 + trained)  # computing in fp32: they are stored so too
    moments = list(step.moments())
    assert {moment.moment for moment in moments} == {"loss", "backward"}
    assert moments[0].workspace == 16 * MIB  # the head has no gradient
    assert moments[11].workspace == pytest.approx((16 + 16) * MIB + 4 * trained / 4)
