"""The transformer: a stock QwenImageTransformer2DModel whose attention is built by hand.

What is built, and frozen:
- The edit happens in the tokens of the reference image, at timestep 0 of `zero_cond_t`. The noisy
  target tokens do nothing behind closed gates; in the last block each copies the edited token at its own
  row and column, and the answer is v = (x_t - edited) / sigma. One Euler step gives the edit.
- Every head looks at one place: the neighbour a fixed number of tokens up, down, left or right (RoPE
  makes that exact; where there is no neighbour the text tokens are the sink, which tells a token that
  it lies at an edge), or at the sentence. So an attention is a shift, at any size and aspect.
- The text stream turns the cosine with each state's prototype into a clean yes or no (unknown
  sentences end as "no edit at all"), lets the surest suppress the others, and then stays the same.
- Mirrors, squares and the colours of image 2 need no training at all (`geometry`, `known`).

What is trained: the values, outputs and MLPs of the reference tokens, from the pixels of true edits.
`Editor` is that part; `assemble` writes everything into the stock class, and the two agree.
"""

from __future__ import annotations

import math

import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor, nn

from demo import geometry
from demo.editor import DIRECTIONS, MAPS_BLOCK, NEIGHBOUR_DIM, OFFSETS, TRAINED_UNITS, EditBlock, Editor
from demo.geometry import RULERS, copy_query, write_copy_keys, write_edges, write_rulers
from demo.states import COLOUR_STATES, EDIT_STATES, PLACE_STATES, STATES
from demo.text_encoder import WIDTH as TEXT_WIDTH
from demo.text_encoder import prototypes
from demo.vae import Z_DIM, Codec
from demo.wiring import (
    AXES,
    BLOCKS,
    CHANNELS,
    COLOURED_HEAD,
    DIM,
    FLIP,
    FREE,
    HEAD_DIM,
    HEADS,
    HIGH,
    LIFT,
    LOW,
    MARK,
    PLACED_HEAD,
    SHARPEN,
    SHARPNESS,
    SPREAD,
    TEXT_HEADS,
    TEXT_SHARE,
    TRAINED_TEXT,
    ZERO,
    Units,
    head,
    modulate,
    pattern,
    sink_direction,
    write_rows,
)

UNSURE = 0.44  # a smaller cosine with a state's prototype is no request for it
FIRST_GUESS = (0.4375, 0.5)  # between these cosines block 1 reads a state from not at all to fully; exact in bfloat16
LOWEST_SIGMA = 0.03  # below the last sigma of 50 steps


@torch.no_grad()
def _write_time(network: QwenImageTransformer2DModel) -> Tensor:
    """Build the time embedding by hand: dim 0 says "timestep 0", dim 1 holds 1/sigma + 40.

    Both are sums of hinges of the slowest sine, which is nearly linear in sigma. 1/sigma is convex, so
    all hinges have one sign and bf16 weights do not cancel. Returns the row that reads dim 0, behind
    the SiLU, as 0 or 1.
    """
    embed = network.time_text_embed.timestep_embedder
    for layer in (embed.linear_1, embed.linear_2):
        layer.weight.zero_()
        layer.bias.zero_()
    slowest = 255  # the last sine: angle t * 10000^(-127/128)
    slope = 10000.0 ** (-127 / 128) * 1000  # d sin / d sigma near 0
    knots = torch.logspace(math.log10(LOWEST_SIGMA), 0, DIM - 1, dtype=torch.float64)
    heights = torch.sin(knots * slope) / slope
    gradients = -torch.diff(1 / knots) / torch.diff(heights)
    weights = torch.cat([torch.zeros(1), gradients[:-1] - gradients[1:], gradients[-1:]])
    turns = torch.cat([torch.tensor([0.4 * LOWEST_SIGMA]), heights]).float()
    steep = 64 / turns
    embed.linear_1.weight[:, slowest] = -(steep / slope).bfloat16().float()
    embed.linear_1.bias.copy_((steep * turns).bfloat16().float())
    embed.linear_2.weight[0, 0] = 1.0
    embed.linear_2.weight[1, 1:] = weights.float() / steep[1:]
    embed.linear_2.bias[1] = 41.0
    reads_zero = torch.zeros(DIM)
    reads_zero[0] = 1 / 64
    return reads_zero


@torch.no_grad()
def new_transformer() -> QwenImageTransformer2DModel:
    """The stock class with everything that is built by hand, and no edit in it yet."""
    network = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=Z_DIM,
        num_layers=BLOCKS,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=AXES,
        zero_cond_t=True,
    )
    for parameter in network.parameters():
        parameter.zero_()
    reads_zero = _write_time(network)
    network.img_in.weight[:CHANNELS] = torch.eye(CHANNELS)
    network.img_in.bias[LOW], network.img_in.bias[HIGH] = -LIFT, LIFT
    for index, block in enumerate(network.transformer_blocks):
        _write_block(block, index, reads_zero)
    _write_text(network)
    network.norm_out.linear.weight[:DIM, 1] = 1.0  # scale = (1/sigma + 41 - 1) - 41
    network.norm_out.linear.bias[:DIM] = -41.0
    network.proj_out.weight[:, :CHANNELS] = torch.eye(CHANNELS) * SPREAD
    network.proj_out.weight[:, ZERO] = -SPREAD
    return network.eval()


def _write_block(block: nn.Module, index: int, reads_zero: Tensor) -> None:
    copies = index == BLOCKS - 1
    zero, one, marker = torch.zeros(DIM), torch.ones(DIM), torch.zeros(DIM)
    marker[MARK] = 1.0
    # Undo the LayerNorm's division on free dims and the ZERO one, hide the other constants.
    scale = torch.full((DIM,), SPREAD - 1)
    scale[MARK:] = -1.0
    image = {"shift1": (marker, -marker), "scale1": (scale, -one), "gate1": (zero, one) if copies else (one, zero)}
    image |= {"shift2": (zero, zero), "scale2": (scale, -one), "gate2": (zero, zero) if copies else (one, zero)}
    modulate(block.img_mod[1], reads_zero, image)
    text = {"shift1": zero, "scale1": scale, "gate1": zero, "shift2": zero}
    text |= {"scale2": scale, "gate2": one if index < 2 else zero}
    modulate(block.txt_mod[1], zero, {name: (value, value) for name, value in text.items()})
    attention = block.attn
    for norm in (attention.norm_q, attention.norm_k, attention.norm_added_q, attention.norm_added_k):
        norm.weight.fill_(SHARPNESS)
    attention.add_q_proj.bias.copy_(sink_direction().repeat(HEADS))
    attention.add_k_proj.bias.copy_(sink_direction().repeat(HEADS))
    if not copies:
        _write_neighbour_heads(attention, index)
        return
    for number in range(HEADS):
        span = head(number)
        if number < CHANNELS // HEAD_DIM:
            attention.to_q.bias[span] = copy_query()
            write_copy_keys(attention.to_k.weight[span])
            attention.add_k_proj.bias[span] = -copy_query()
            attention.to_v.weight[span, span] = torch.eye(HEAD_DIM)
            attention.to_v.weight[span, ZERO] = -1.0
            attention.to_out[0].weight[span, span] = -torch.eye(HEAD_DIM)
        else:
            attention.to_q.bias[span] = sink_direction()
            attention.to_k.bias[span] = -sink_direction()


def _request_dims(index: int) -> slice:
    """The text dims that block `index` reads: each edit's yes, or the chosen edit's alone."""
    level = 1 if index < 2 else 2
    return slice(level * EDIT_STATES, (level + 1) * EDIT_STATES)


def _write_neighbour_heads(attention: nn.Module, index: int) -> None:
    """Queries peak `offset` tokens away; the text tokens win where that place does not exist."""
    for number in range(HEADS):
        span = head(number)
        if number < len(DIRECTIONS):
            offset = OFFSETS[index]
            dy, dx = DIRECTIONS[number]
            attention.to_q.bias[span] = pattern(0, offset * dy, offset * dx, sink=TEXT_SHARE)
            attention.to_k.weight[span, MARK] = pattern()
        else:
            attention.to_q.bias[span] = sink_direction()
            attention.to_k.bias[span] = -sink_direction()
    if index > 0:  # text tokens that name something are keys, the others are not
        for number, unseen in ((PLACED_HEAD, COLOUR_STATES), (COLOURED_HEAD, PLACE_STATES)):
            span = head(number)
            seen = torch.ones(EDIT_STATES)
            seen[[STATES.index(state) for state in unseen]] = 0.0
            attention.add_k_proj.bias[span] = -0.5 * sink_direction()
            write_rows(attention.add_k_proj.weight[span], _request_dims(index), torch.outer(sink_direction(), seen))


def _write_text(network: QwenImageTransformer2DModel) -> None:
    """The text stream, per state: dims 0..59 its cosine with the prototype, 60..119 a yes or no, 180..239 how sure
    (block 0), 120..179 1 where it is surer than all the other ones together (block 1)."""
    network.txt_norm.weight.fill_(1.0)
    network.txt_in.weight[:EDIT_STATES] = prototypes()[:EDIT_STATES] / math.sqrt(TEXT_WIDTH)
    network.txt_in.bias[LOW], network.txt_in.bias[HIGH] = -LIFT, LIFT
    decision, choice, *_ = network.transformer_blocks
    for state in range(EDIT_STATES):
        cosine, lead = torch.zeros(DIM), torch.zeros(DIM)
        cosine[state] = 1.0
        _write_step(decision, state, cosine, FIRST_GUESS, EDIT_STATES + state)
        _write_step(decision, EDIT_STATES + state, cosine, (UNSURE - 0.05, 1.0), 3 * EDIT_STATES + state)
        lead[3 * EDIT_STATES : 4 * EDIT_STATES] = -1.0
        lead[3 * EDIT_STATES + state] = 1.0
        _write_step(choice, state, lead, (0.02, 0.10), 2 * EDIT_STATES + state)


def _write_step(block: nn.Module, pair: int, reads: Tensor, ramp: tuple[float, float], writes: int) -> None:
    """Two hidden units that rise from 0 to 1 as the number read goes up the ramp."""
    steep, (low, high) = 64.0, ramp
    first, last = block.txt_mlp.net[0].proj, block.txt_mlp.net[2]
    for side, threshold in enumerate((low, high)):
        unit = 2 * pair + side
        write_rows(first.weight[unit : unit + 1], slice(FREE), steep * reads[None, :FREE])
        first.bias[unit] = -steep * threshold
        last.weight[writes, unit] = (1 - 2 * side) / (steep * (high - low))


@torch.no_grad()
def assemble(editor: Editor, codec: Codec) -> QwenImageTransformer2DModel:
    """Write the trained part and the known maps into the stock class."""
    network = new_transformer()
    for index, (source, block) in enumerate(zip(editor.blocks, network.transformer_blocks, strict=False)):
        _write_trained(block, source, editor.trained_states, index)
    blocks = network.transformer_blocks
    units = [Units(block, first) for block, first in zip(blocks, TRAINED_UNITS, strict=False)]
    write_edges(blocks[0].attn)
    for index in RULERS:
        write_rulers(blocks[index].attn, index)
    editor.tones.write(blocks[1], units[1], _request_dims(1))
    geometry.write_requests(blocks[2].attn, _request_dims(2), codec)
    geometry.write_means(blocks[3].attn, codec)
    geometry.write_lookups(units[2])
    geometry.write_choices(units[3], codec)
    for name, flag in (("columns", FLIP[0]), ("rows", FLIP[1]), ("sharpen", SHARPEN)):
        editor.maps[name].write(units[MAPS_BLOCK[name]], flag)
    return network


def _write_trained(block: nn.Module, source: EditBlock, trained_states: Tensor, index: int) -> None:
    attention, trained = block.attn, len(source.up.bias)
    write_rows(attention.to_v.weight[:NEIGHBOUR_DIM], slice(FREE), source.value.weight)
    attention.to_v.bias[:NEIGHBOUR_DIM] = source.value.bias
    attention.add_v_proj.bias[:NEIGHBOUR_DIM] = source.missing
    out = attention.to_out[0]
    named = torch.tensor(TRAINED_TEXT) + TEXT_HEADS[0] * HEAD_DIM
    if source.reads_text:
        values = torch.zeros(len(named), DIM)
        write_rows(values, _request_dims(index), (source.edit * trained_states[:, None]).T)
        attention.add_v_proj.weight[named] = values
    out.weight[:FREE, :NEIGHBOUR_DIM] = source.out.weight[:, :NEIGHBOUR_DIM]
    out.weight[:FREE, named] = source.out.weight[:, NEIGHBOUR_DIM:]
    out.bias[:FREE] = source.out.bias
    write_rows(block.img_mlp.net[0].proj.weight[:trained], slice(FREE), source.up.weight)
    block.img_mlp.net[0].proj.bias[:trained] = source.up.bias
    block.img_mlp.net[2].weight[:FREE, :trained] = source.down.weight
    block.img_mlp.net[2].bias[:FREE] += source.down.bias
