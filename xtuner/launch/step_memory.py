"""The memory of a training step, moment by moment, from the sizes of a model and the options of a run.

A step has little in common at its moments: at the loss all activations are there and no gradient of this pack, at the
end of the backward pass it is the other way round. So no sum of the most that each part ever takes is the peak; the
peak is the highest of the sums at a few moments, each of which is the most of its kind:

    loss        the last chunk of the loss: logits, the gradient of the head
    backward    the backward pass of a block, for each block: its weights are gathered, its gradients appear and are
                divided among the ranks
    embedding   the end of the backward pass: the gradients of embedding and head

What FSDP2 keeps when (`torch.distributed.fsdp._fully_shard`): embedding, last norm and head stay gathered from the
beginning of the forward to the end of the backward pass. Blocks are gathered one by one, `prefetch` of them ahead; with
more than one shard those ahead are still in the buffer that they were received in, from which they are copied out.
The gradients of a block are copied to the input of a reduce-scatter, in fp32, which is freed when that of the block
before it is made. All figures are bytes of one rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from xtuner.launch.model_sizes import ModelSizes
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.memory import (
    MASTER_BYTES,
    STATE_BYTES,
    compute_bytes,
    logits_bytes,
    recompute_ratio,
)

Moment = Literal["loss", "backward", "embedding"]


@dataclass(frozen=True)
class Parts:
    """What memory is taken for at one moment; `workspace` is all that has no name of its own."""

    moment: Moment
    parameters: float
    gradients: float
    optimizer: float
    activations: float = 0.0
    logits: float = 0.0
    workspace: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        states = self.parameters + self.gradients + self.optimizer
        return states + self.activations + self.logits + self.workspace


@dataclass(frozen=True)
class StepMemory:
    """The step of `config` on each of `world_size` ranks with devices of `kind`."""

    config: TrainerConfig
    sizes: ModelSizes
    kind: str
    world_size: int

    def peak(self) -> Parts:
        """The moment at which most is taken."""
        return max(self.moments(), key=lambda parts: parts.total)

    def moments(self) -> Iterator[Parts]:
        """All moments that may be the peak."""
        yield self._at_loss()
        for index in range(self.sizes.num_layers):
            yield from self._in_block(index)
        yield from self._at_embedding()

    @cached_property
    def parameters(self) -> float:
        """This rank's shards: fp32, or as they are stored where LoRA leaves them as they are."""
        lora, (of_blocks, of_others) = self.config.lora, self._shares
        if not lora.rank:
            return MASTER_BYTES * (self.sizes.num_in_blocks * of_blocks + self.sizes.num_outside * of_others)
        frozen = self.sizes.frozen_bytes if self._item == 2 else MASTER_BYTES
        weights = frozen * (self.sizes.num_in_blocks * of_blocks + self.sizes.num_outside * of_others)
        return weights + MASTER_BYTES * self._num_trained_in_blocks * of_blocks

    @cached_property
    def gradients(self) -> float:
        """Of all that this rank trains, in fp32."""
        of_blocks, of_others = self._shares
        return MASTER_BYTES * (self._num_trained_in_blocks * of_blocks + self._num_trained_outside * of_others)

    @cached_property
    def optimizer(self) -> float:
        """State of all that this rank trains, from the second step on."""
        (of_matrix, of_vector), (of_blocks, of_others) = STATE_BYTES[self.config.optimizer], self._shares
        if self.config.lora.rank:
            return of_matrix * self._num_trained_in_blocks * of_blocks
        vectors = self.sizes.num_in_vectors * of_blocks + self.sizes.num_outside * of_others
        return of_matrix * self.sizes.num_in_matrices * of_blocks + of_vector * vectors

    @cached_property
    def scattered(self) -> float:
        """What has a place of its own on a heap, though it is never there together with all the rest.

        Where no block keeps anything in the forward pass, the holes that its tensors leave are too small for the first
        block that is computed again; where some blocks keep all, the room of those is free by then. With several ranks
        the weights of a block arrive in a buffer in one piece and are copied out of it; before the next block can have
        the room of both, what is kept of this one has taken pieces of it. Embedding and head have two buffers too.
        """
        again = self._again if self._num_recomputed == self.sizes.num_layers else 0.0
        gathered = self.sizes.num_layers * self._block * self._item + self._outside
        return again + (2 * gathered if self._num_shards > 1 else 0.0)

    def _at_loss(self) -> Parts:
        """The last norm keeps what each norm does, the trained rows are copied and have a gradient each.

        As many rows as tokens: how many of them are trained is known only when the data are.
        """
        block, item, num_tokens = self.sizes.block, self._item, self._num_tokens
        hidden = block.hidden_size
        last = num_tokens * (block.norm_bytes(hidden, item, self.kind) + hidden * item + 2 * hidden * item)
        head_gradient = self._head_gradient * MASTER_BYTES
        product = self._head_gradient * item if item != MASTER_BYTES else 0.0  # of a chunk, before it is added
        in_buffer = self._block * item if self._num_shards > 1 else 0.0  # the last block's, until the forward is over
        return self._parts(
            "loss",
            gradients=self.gradients if self._is_added_up else 0.0,
            activations=self._kept_below(self.sizes.num_layers) + last,
            logits=logits_bytes(num_tokens, self.config.loss_chunk_size, self.sizes.vocab_size, item),
            workspace=self._outside + head_gradient + product + in_buffer,
        )

    def _in_block(self, index: int) -> Iterator[Parts]:
        """Of block `index`, counted from the input: its MLP, where it keeps all, and its end, where gradients are."""
        item, num_layers, num_tokens = self._item, self.sizes.num_layers, self._num_tokens
        block = self.sizes.block
        is_last = index == num_layers - 1
        gradients = self.gradients if self._is_added_up else self._block_gradients * (num_layers - 1 - index)
        weights = self._block * item
        ahead = min(self.config.fsdp_config.prefetch, index) * weights if self._num_shards > 1 else 0.0
        if not self.config.fsdp_config.reshard_after_forward:
            weights, ahead = weights * (index + 1), 0.0
        kept = self._kept_below(index + 1)
        if index < self._num_recomputed:
            kept += self._again
        own = num_tokens * block.kept_bytes(item, self.config.tp_size, self.kind)
        passing = num_tokens * block.passing_bytes(item, self.config.tp_size)
        copy = self._copies_of_gloo
        reduced_before = 0.0 if is_last else self._trained_block * MASTER_BYTES
        base = self._outside + self._head_gradient * item + ahead
        yield self._parts(
            "backward",
            gradients=gradients,
            activations=kept + passing,
            workspace=base + weights + reduced_before + copy * ahead,
        )
        reduced = (1 + copy) * self._trained_block * MASTER_BYTES
        edges = 2 * num_tokens * block.hidden_size * item  # the gradients of its output and input
        own_gradients = self._trained_block * item
        yield self._parts(
            "backward",
            gradients=gradients,
            activations=kept - own + edges,
            workspace=base + weights + own_gradients + reduced_before,
        )
        yield self._parts(
            "backward",
            gradients=gradients + self._block_gradients,
            activations=kept - own + edges / 2,
            workspace=base + weights - self._block * item + own_gradients + reduced,
        )

    def _at_embedding(self) -> Iterator[Parts]:
        """The embedding's gradient is as large as the head's, and added to it where the two are one matrix."""
        if self.config.lora.rank:
            return
        of_blocks = self.gradients if self._is_added_up else self._block_gradients * self.sizes.num_layers
        outside, of_others = self.sizes.num_outside, self._shares[1]
        edges = self._num_tokens * self.sizes.block.hidden_size * self._item
        yield self._parts(
            "embedding",
            gradients=of_blocks,
            activations=edges,
            workspace=self._outside + 2 * self._head_gradient * self._item + self._trained_block * MASTER_BYTES,
        )
        yield self._parts(
            "embedding",
            gradients=of_blocks + outside * of_others * MASTER_BYTES,
            workspace=outside * (self._item + (1 + self._copies_of_gloo) * MASTER_BYTES),
        )

    def _parts(
        self, moment: Moment, *, gradients: float, activations: float = 0.0, logits: float = 0.0, workspace: float = 0.0
    ) -> Parts:
        if self.is_offloaded:
            return Parts(moment, 0.0, 0.0, 0.0, activations, logits, workspace)
        return Parts(moment, self.parameters, gradients, self.optimizer, activations, logits, workspace)

    @property
    def is_offloaded(self) -> bool:
        """Whether parameters, gradients and optimizer state are in host memory and not on the device."""
        return self.config.fsdp_config.cpu_offload and self.kind != "cpu"

    def _kept_below(self, end: int) -> float:
        """What the first `end` blocks keep for their backward pass; the recomputed ones are the first."""
        block, num_recomputed = self.sizes.block, min(self._num_recomputed, end)
        kept = block.kept_bytes(self._item, self.config.tp_size, self.kind)
        return self._num_tokens * (num_recomputed * block.input_bytes(self._item) + (end - num_recomputed) * kept)

    @cached_property
    def _again(self) -> float:
        """What a block that is computed again keeps then, besides its input."""
        block, item = self.sizes.block, self._item
        shared = block.input_bytes(item) if item == MASTER_BYTES else 0
        return self._num_tokens * (block.kept_bytes(item, self.config.tp_size, self.kind) - shared)

    @cached_property
    def _item(self) -> int:
        return compute_bytes(self.config.fsdp_config, self.kind)

    @cached_property
    def _num_tokens(self) -> int:
        return self.config.pack_max_length // self.config.sp_size

    @cached_property
    def _num_recomputed(self) -> int:
        return round(recompute_ratio(self.config.fsdp_config, self.kind) * self.sizes.num_layers)

    @cached_property
    def _num_sharing(self) -> int:
        """Ranks that share one copy of the model."""
        return self.config.fsdp_config.hsdp_sharding_size or self.world_size

    @cached_property
    def _num_shards(self) -> int:
        """Ranks that FSDP divides a parameter among; those of tensor parallel have divided it before."""
        return self._num_sharing // self.config.tp_size

    @cached_property
    def _copies_of_gloo(self) -> int:
        """Copies that the process group makes of what it gathers and reduces; NCCL makes none."""
        return 1 if self.kind == "cpu" and self._num_shards > 1 else 0

    @cached_property
    def _shares(self) -> tuple[float, float]:
        """A rank's share of the blocks, and of what lies outside them, which tensor parallel leaves whole."""
        return 1 / self._num_sharing, self.config.tp_size / self._num_sharing

    @cached_property
    def _is_added_up(self) -> bool:
        """Whether a rank has several packs a step: then the gradients of the first are there at the next one's loss."""
        num_groups = self.world_size // (self.config.sp_size * self.config.tp_size)
        return self.config.sequences_per_step(self.world_size) > num_groups

    @cached_property
    def _outside(self) -> float:
        """Embedding, last norm and head, gathered."""
        return float(self.sizes.num_outside * self._item)

    @cached_property
    def _block(self) -> float:
        """Numbers of a gathered block."""
        return self.sizes.num_in_blocks / self.sizes.num_layers / self.config.tp_size

    @cached_property
    def _num_trained_in_blocks(self) -> int:
        lora = self.config.lora
        return lora.rank * self.sizes.adapter_dims if lora.rank else self.sizes.num_in_blocks

    @cached_property
    def _num_trained_outside(self) -> int:
        return 0 if self.config.lora.rank else self.sizes.num_outside

    @cached_property
    def _trained_block(self) -> float:
        """Numbers of a block that have a gradient, before it is divided among the ranks."""
        return self._num_trained_in_blocks / self.sizes.num_layers / self.config.tp_size

    @cached_property
    def _block_gradients(self) -> float:
        """A rank's share of the gradients of a block."""
        return MASTER_BYTES * self._trained_block / self._num_shards

    @cached_property
    def _head_gradient(self) -> int:
        """Numbers of the gradient of the head."""
        return 0 if self.config.lora.rank else self.sizes.num_in_head
