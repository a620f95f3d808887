"""The diffusion network's answer to one state: the velocity with and without the instruction.

`PlainNetwork` is the stock forward and the reference. `FastNetwork` computes the same through the same
weights without what is computed in vain: the projections of text and references once per edit, the
modulation once per timestep, the first block's view of the image once for both guidance branches, references
and target separated by slices, and of the last block only what is read. A test holds the two together. It may
reuse blocks over steps, see `acceleration.py`. Neither knows guidance nor the sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from diffusers import QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

from retouch.engine.pipeline import DenoiseState
from retouch.engine.pipelines.acceleration import BlockCache
from retouch.engine.pipelines.low_rank import LoraLinear, with_layers
from retouch.engine.pipelines.modulation import Modulation, adapts_modulation, timestep_at
from retouch.engine.pipelines.offload import OffloadedBlocks

T = TypeVar("T")


class Network(Protocol):
    """transformer, dtype: the stock network, and what it computes in. width: channels of a token inside. skips:
    whether it can leave out blocks, by a state's `block_cache`, and target tokens, after `narrow`. step_bytes: of the
    table an edit holds, for each of its steps."""

    transformer: QwenImageTransformer2DModel
    dtype: torch.dtype
    width: int
    skips: bool
    step_bytes: int

    def adapted(self, layers: Mapping[str, LoraLinear]) -> Network:
        """The same network with LoRAs on some layers, by their names; this one stays as it is."""

    def velocities(
        self, state: DenoiseState, latents: torch.Tensor, sigma: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Velocity at `sigma` following the prompt, and following the negative prompt when the state is guided.

        sigma: one of the state's. latents, results: (1, target tokens, channels) in the network's dtype.
        """


def image_shapes(state: DenoiseState) -> list[tuple[int, int, int]]:
    """(frames, rows, columns) of the target and of each reference, as the stock classes want it."""
    return [(1, rows, columns) for rows, columns in (state.key.target, *state.key.references)]


class PlainNetwork:
    """The stock forward."""

    skips = False
    step_bytes = 0

    def __init__(self, transformer: QwenImageTransformer2DModel) -> None:
        self.transformer = transformer
        self.width = transformer.inner_dim
        self.dtype = transformer.dtype

    def adapted(self, layers: Mapping[str, LoraLinear]) -> PlainNetwork:
        return PlainNetwork(with_layers(self.transformer, layers))

    def velocities(
        self, state: DenoiseState, latents: torch.Tensor, sigma: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        tokens = torch.cat([latents.to(self.dtype), state.references], dim=1)
        timestep = timestep_at(sigma, latents)
        with_prompt = self._velocity(state, tokens, timestep, state.prompt_embeds)
        if state.negative_embeds is None:
            return with_prompt, None
        return with_prompt, self._velocity(state, tokens, timestep, state.negative_embeds)

    def _velocity(
        self, state: DenoiseState, tokens: torch.Tensor, timestep: torch.Tensor, embeds: torch.Tensor
    ) -> torch.Tensor:
        velocity: torch.Tensor = self.transformer(
            hidden_states=tokens,
            timestep=timestep,
            encoder_hidden_states=embeds,
            img_shapes=[image_shapes(state)],
            return_dict=False,
        )[0]
        return velocity[:, : state.latents.shape[1]]


@dataclass(frozen=True, slots=True)
class Projected:
    """What stays the same over all steps of one edit."""

    references: torch.Tensor  # (1, reference tokens, width)
    image_rotation: torch.Tensor  # (image tokens, head width / 2) complex64
    texts: tuple[torch.Tensor, ...]  # one or two of (1, text tokens, width)
    text_rotations: tuple[torch.Tensor, ...]  # (text tokens, head width / 2) complex64 each


def narrow(state: DenoiseState, tokens: torch.Tensor) -> None:
    """From now on the state's `FastNetwork` takes and gives these target tokens only. tokens: (n,) int64.

    For a state that has taken a step.
    """
    projected: Projected = state.extras["projected"]
    targets = state.latents.shape[1]
    rotation = torch.cat([projected.image_rotation[tokens], projected.image_rotation[targets:]])
    state.extras["projected"] = replace(projected, image_rotation=rotation)
    cache: BlockCache | None = state.extras.get("block_cache")
    if cache is not None:
        cache.narrow(tokens)


class FastNetwork:
    """The same forward without the repetitions. Takes one edit at a time; a network without gradients."""

    skips = True

    def __init__(
        self,
        transformer: QwenImageTransformer2DModel,
        modulation: Modulation | None = None,
        offloaded: OffloadedBlocks | None = None,
        run_block: RunBlock | None = None,
    ) -> None:
        """modulation: of this network; without one its tables are kept in memory only. offloaded: its blocks, when
        they are on the device only while they are used. run_block: `compiled_block()`, or the plain one.
        """
        self.transformer = transformer
        self.width = transformer.inner_dim
        self.dtype = transformer.dtype
        self.blocks: tuple[Any, ...] = tuple(transformer.transformer_blocks)
        assert len(self.blocks) > 1, "the first block and the last one are treated differently"
        self.step_bytes = (2 * len(self.blocks) + 1) * 6 * self.width * self.dtype.itemsize
        self.modulation = modulation or Modulation(transformer)
        self.offloaded = offloaded
        self.run_block: RunBlock = run_block or _block

    def adapted(self, layers: Mapping[str, LoraLinear]) -> FastNetwork:
        transformer = with_layers(self.transformer, layers)
        modulation = None if adapts_modulation(transformer) else self.modulation
        return FastNetwork(transformer, modulation, self.offloaded, self.run_block)

    def velocities(
        self, state: DenoiseState, latents: torch.Tensor, sigma: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        projected = state.extras.get("projected") or self._project(state)
        state.extras["projected"] = projected
        network, targets = self.transformer, latents.shape[1]
        image = torch.cat([network.img_in(latents.to(self.dtype)), projected.references], dim=1)
        moving, still = self._modulation(state, sigma)
        branches = [
            [
                Conditions((moving[row], still[row]), (moving[row + 1],), rotation, projected.image_rotation, targets)
                for row in range(0, 2 * len(self.blocks), 2)
            ]
            for rotation in projected.text_rotations
        ]
        ends = self._through_blocks(state, image, projected.texts, branches)
        scale, shift = moving[-1, 0], moving[-1, 1]
        velocities = [network.proj_out(network.norm_out.norm(end) * (1 + scale) + shift) for end in ends]
        return velocities[0], velocities[1] if len(velocities) > 1 else None

    def _through_blocks(
        self,
        state: DenoiseState,
        image: torch.Tensor,
        texts: tuple[torch.Tensor, ...],
        branches: list[list[Conditions]],
    ) -> list[torch.Tensor]:
        """The target's tokens behind the last block, for each branch."""
        given = [conditions[0] for conditions in branches]

        def first_block(block: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
            # Text has not touched the image yet, so what the image gives to attention is the same for all branches.
            heads = _room_for_heads(block.attn, image, image.shape[1])
            _write_image_heads(block, image, given[0], heads)
            return [self.run_block(block, image, text, each, heads) for text, each in zip(texts, given, strict=True)]

        begun = self._holding(0, first_block)
        cache: BlockCache | None = state.extras.get("block_cache")
        if cache is None:
            return self._rest(begun, branches)
        count = given[0].targets
        starts = [tokens[:, :count] for tokens, _ in begun]
        first = [start - image[:, :count] for start in starts]
        if cache.serves(state, first):
            cache.count_reuse()
            return [start + rest for start, rest in zip(starts, cache.rest, strict=True)]
        ends = self._rest(begun, branches)
        cache.keep(first, [end - start for start, end in zip(starts, ends, strict=True)])
        return ends

    def _rest(
        self, tokens: list[tuple[torch.Tensor, torch.Tensor]], branches: list[list[Conditions]]
    ) -> list[torch.Tensor]:
        """Through all blocks but the first, each for all branches, since its weights may have to be brought."""
        for index in range(1, len(self.blocks) - 1):
            tokens = self._holding(index, partial(_each, self.run_block, tokens, [given[index] for given in branches]))
        return self._holding(-1, partial(_each, _last_block, tokens, [given[-1] for given in branches]))

    def _holding(self, index: int, use: Callable[[Any], T]) -> T:
        """What `use` makes with a block while its weights are on the device."""
        block = self.blocks[index]
        return use(block) if self.offloaded is None else self.offloaded.holding(index, lambda: use(block))

    def _project(self, state: DenoiseState) -> Projected:
        network = self.transformer
        embeds = [e for e in (state.prompt_embeds, state.negative_embeds) if e is not None]
        device = state.latents.device
        rotations = [
            network.pos_embed([image_shapes(state)], max_txt_seq_len=text.shape[1], device=device) for text in embeds
        ]
        return Projected(
            references=network.img_in(state.references),
            image_rotation=rotations[0][0],
            texts=tuple(network.txt_in(network.txt_norm(text)) for text in embeds),
            text_rotations=tuple(rotation for _, rotation in rotations),
        )

    def _modulation(self, state: DenoiseState, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Entries of the edit's table for the target's tokens and for the references', see `Modulation.table`.

        In a `zero_cond_t` network references are always at timestep 0, in the others at the target's.
        """
        table: torch.Tensor | None = state.extras.get("modulation")
        if table is None:  # held by the edit, so that it is never made twice however many schedules run
            table = state.extras["modulation"] = self.modulation.table(state.sigmas, state.latents)
        target = table[state.sigmas.index(sigma)]
        return target, table[-1] if self.transformer.zero_cond_t else target


@dataclass(frozen=True, slots=True)
class Conditions:
    """What steers one block: modulation, rotations, count of target tokens.

    image_rows: for the target's tokens and the references', each (6, width). text_rows: for all of them.
    """

    image_rows: tuple[torch.Tensor, torch.Tensor]
    text_rows: tuple[torch.Tensor]
    text_rotation: torch.Tensor
    image_rotation: torch.Tensor
    targets: int


SHIFT, SCALE, GATE = range(3)
SECOND = 3
"""Offset of the second norm's shift, scale and gate."""


Heads: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Query, key and value, each (1, tokens, heads, head width)."""


RunBlock: TypeAlias = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""`_block`, or the same compiled."""


def compiled_block(backend: str = "inductor") -> RunBlock:
    """The repeated block as one compiled function for all blocks and sizes; the first calls take a while.

    It differs from the plain one in the last bits, and by how its kernels were chosen may differ between two starts.
    """
    compiled: RunBlock = torch.compile(_block, dynamic=True, fullgraph=True, backend=backend)
    return compiled


def _each(
    through: Callable[[Any, torch.Tensor, torch.Tensor, Conditions], T],
    tokens: Sequence[tuple[torch.Tensor, torch.Tensor]],
    branches: Sequence[Conditions],
    block: Any,
) -> list[T]:
    return [through(block, image, text, given) for (image, text), given in zip(tokens, branches, strict=True)]


def _block(
    block: Any, image: torch.Tensor, text: torch.Tensor, given: Conditions, heads: Heads | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both streams behind one block. heads: the image's own, when they were computed before."""
    length, targets = text.shape[1], given.targets
    joint = _room_for_heads(block.attn, image, length + image.shape[1])
    _write_text_heads(block, text, given, _part(joint, 0, length))
    if heads is None:
        _write_image_heads(block, image, given, _part(joint, length))
    else:
        for into, made in zip(_part(joint, length), heads, strict=True):
            into.copy_(made)
    mixed = _attention(*joint)
    text = text + _gated(block.attn.to_add_out(mixed[:, :length].contiguous()), given.text_rows, length)
    image = image + _gated(block.attn.to_out[0](mixed[:, length:].contiguous()), given.image_rows, targets)
    text_in = _modulated(block.txt_norm2(text), given.text_rows, length, SECOND)
    text = text + _gated(block.txt_mlp(text_in), given.text_rows, length, SECOND)
    image_in = _modulated(block.img_norm2(image), given.image_rows, targets, SECOND)
    image = image + _gated(block.img_mlp(image_in), given.image_rows, targets, SECOND)
    return image, text


def _last_block(block: Any, image: torch.Tensor, text: torch.Tensor, given: Conditions) -> torch.Tensor:
    """As `_block`, but only the target tokens."""
    # Nothing reads references and text behind the last block. Their keys and values still take part in its attention;
    # their queries, and all that would follow for them, are left out.
    length, targets = text.shape[1], given.targets
    joint = _room_for_heads(block.attn, image, length + image.shape[1])
    _write_text_heads(block, text, given, _part(joint, 0, length))
    _write_image_heads(block, image, given, _part(joint, length), queries=targets)
    query, key, value = joint
    mixed = _attention(query[:, length : length + targets], key, value)
    target = image[:, :targets] + _gated(block.attn.to_out[0](mixed), given.image_rows, targets)
    target_in = _modulated(block.img_norm2(target), given.image_rows, targets, SECOND)
    return target + _gated(block.img_mlp(target_in), given.image_rows, targets, SECOND)


def _room_for_heads(attention: Any, like: torch.Tensor, tokens: int) -> Heads:
    """Query, key and value of all tokens at once, for both streams to be written into without being copied later."""
    shape = (1, tokens, attention.heads, like.shape[-1] // attention.heads)
    return like.new_empty(shape), like.new_empty(shape), like.new_empty(shape)


def _part(heads: Heads, first: int, last: int | None = None) -> Heads:
    query, key, value = (entry[:, first:last] for entry in heads)
    return query, key, value


def _write_image_heads(
    block: Any, image: torch.Tensor, given: Conditions, into: Heads, queries: int | None = None
) -> None:
    """Query of the first `queries` tokens, key and value of all."""
    attention, rotation = block.attn, given.image_rotation
    tokens = _modulated(block.img_norm1(image), given.image_rows, given.targets)
    query, key, value = into
    _rotate(attention.norm_q(_heads(attention, attention.to_q(tokens[:, :queries]))), rotation, query[:, :queries])
    _rotate(attention.norm_k(_heads(attention, attention.to_k(tokens))), rotation, key)
    value.copy_(_heads(attention, attention.to_v(tokens)))


def _write_text_heads(block: Any, text: torch.Tensor, given: Conditions, into: Heads) -> None:
    attention, rotation = block.attn, given.text_rotation
    tokens = _modulated(block.txt_norm1(text), given.text_rows, text.shape[1])
    query, key, value = into
    _rotate(attention.norm_added_q(_heads(attention, attention.add_q_proj(tokens))), rotation, query)
    _rotate(attention.norm_added_k(_heads(attention, attention.add_k_proj(tokens))), rotation, key)
    value.copy_(_heads(attention, attention.add_v_proj(tokens)))


def _heads(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    return tokens.unflatten(-1, (attention.heads, -1))


def _rotate(heads: torch.Tensor, rotation: torch.Tensor, into: torch.Tensor) -> None:
    """Rotary positions, as the stock `apply_rotary_emb_qwen` computes them, written where they are needed."""
    rotation = rotation[: heads.shape[1]]
    if heads.dtype == torch.float32:
        torch.mul(_as_complex(heads), rotation.unsqueeze(1), out=_as_complex(into))
    else:
        into.copy_(apply_rotary_emb_qwen(heads, rotation, use_real=False))


def _as_complex(heads: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(heads.unflatten(-1, (-1, 2)))


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """(1, tokens, heads, head width) to (1, query tokens, width)."""
    mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return mixed.transpose(1, 2).flatten(2, 3)


def _modulated(tokens: torch.Tensor, rows: tuple[torch.Tensor, ...], first: int, offset: int = 0) -> torch.Tensor:
    """Scale and shift freshly made tokens in place: the `first` ones by one row, the others, if any, by the next."""
    for row, part in zip(rows, (tokens[:, :first], tokens[:, first:]), strict=False):
        part.mul_(1 + row[offset + SCALE]).add_(row[offset + SHIFT])
    return tokens


def _gated(tokens: torch.Tensor, rows: tuple[torch.Tensor, ...], first: int, offset: int = 0) -> torch.Tensor:
    """Weigh freshly made tokens in place, separated as in `_modulated`."""
    for row, part in zip(rows, (tokens[:, :first], tokens[:, first:]), strict=False):
        part.mul_(row[offset + GATE])
    return tokens
