"""The picture network: a stock QwenImageTransformer2DModel whose attention is built by hand.

What is built, and frozen:
- The edit happens in the tokens of the reference picture, at timestep 0 of `zero_cond_t`. The noisy
  target tokens wait behind closed gates; in the last block each copies the edited token at its own
  row and column, and the answer is v = (x_t - edited) / sigma. One Euler step gives the edit.
- Every head looks at one place: the neighbour a fixed number of tokens up, down, left or right (RoPE
  makes that exact; where there is no neighbour the text tokens are the sink, which tells a token that
  it lies at an edge), or at the sentence. So an attention is a shift, at any size and aspect.
- The text stream turns the cosine with each edit's prototype into a clean yes or no (unknown
  sentences end as "no edit at all"), lets the surest silence the others, and then stays.

What is trained: the values, outputs and MLPs of the reference tokens, from the pixels of true edits.
`Editor` is that part; `assemble` writes everything into the stock class, and the two agree.
"""

from __future__ import annotations

import math

import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional

from demo.text_encoder import WIDTH as TEXT_WIDTH
from demo.text_encoder import prototypes
from demo.vae import Z_DIM

HEADS, HEAD_DIM, BLOCKS = 9, 32, 5
DIM = HEADS * HEAD_DIM
CHANNELS = 4 * Z_DIM
EDIT_BLOCKS = BLOCKS - 1
AXES = (8, 12, 12)
LIFT = 512.0  # size of the two constant dims, which make every LayerNorm linear
ZERO, MARK, LOW, HIGH = DIM - 4, DIM - 3, DIM - 2, DIM - 1
FREE = DIM - 4  # dims that training may write
SPREAD = math.sqrt(2 * LIFT**2 / DIM)  # what a LayerNorm divides by
SHARPNESS = 10.0  # RMS norm weights of q and k
SINK_PAIR = 15  # the slowest width pair: it hardly turns with position
TEXT_HEADS = (7, 8)
OFFSETS = (1, 2, 4, 1)  # how many tokens away the neighbours of each edit block are
DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))
NEIGHBOUR_DIM = len(DIRECTIONS) * HEAD_DIM
EDIT_STATES = 60  # room for edits in the text stream
UNSURE = 0.44  # a smaller cosine with an edit's prototype is no request for it
FIRST_GUESS = (0.52, 0.68)  # between these cosines block 1 hears an edit from not at all to fully


def shift(grid: Tensor, rows: int, columns: int, missing: Tensor) -> Tensor:
    """What each token's neighbour at (rows, columns) holds; `missing` where there is none.

    grid: (batch, height, width, dim). Returns the same shape.
    """
    height, width = grid.shape[1:3]
    out = missing.to(grid.dtype).expand_as(grid).clone()
    here = (slice(max(0, -rows), min(height, height - rows)), slice(max(0, -columns), min(width, width - columns)))
    there = (slice(max(0, rows), min(height, height + rows)), slice(max(0, columns), min(width, width + columns)))
    if here[0].start < here[0].stop and here[1].start < here[1].stop:
        out[:, here[0], here[1]] = grid[:, there[0], there[1]]
    return out


class EditBlock(nn.Module):
    """The trained part of one transformer block, on a grid of reference tokens."""

    def __init__(self, offset: int, reads_text: bool) -> None:
        super().__init__()
        self.offset, self.reads_text = offset, reads_text
        self.value = nn.Linear(FREE, NEIGHBOUR_DIM)
        self.missing = nn.Parameter(torch.randn(NEIGHBOUR_DIM) * 0.5)
        self.edit = nn.Parameter(torch.randn(EDIT_STATES, 2 * HEAD_DIM) * 0.5)
        self.out = nn.Linear(NEIGHBOUR_DIM + 2 * HEAD_DIM, FREE)
        self.up = nn.Linear(FREE, 4 * DIM)
        self.down = nn.Linear(4 * DIM, FREE)
        with torch.no_grad():
            self.value.weight.mul_(0.5)
            self.out.weight[:CHANNELS] *= 0.1
            self.out.bias.zero_()
            self.down.weight[:CHANNELS] *= 0.1
            self.down.bias.zero_()

    def forward(self, h: Tensor, edits: Tensor) -> Tensor:
        """h: (batch, height, width, FREE); edits: (batch, EDIT_STATES), near one-hot or zero."""
        values = self.value(h).split(HEAD_DIM, -1)
        missing = self.missing.split(HEAD_DIM)
        seen = [
            shift(v, self.offset * dy, self.offset * dx, m)
            for v, m, (dy, dx) in zip(values, missing, DIRECTIONS, strict=True)
        ]
        asked = edits @ self.edit if self.reads_text else h.new_zeros(len(h), 2 * HEAD_DIM)
        asked = asked.to(seen[0].dtype)[:, None, None].expand(*h.shape[:3], -1)
        h = h + self.out(torch.cat([*seen, asked], -1))
        return h + self.down(functional.gelu(self.up(h), approximate="tanh"))


class Editor(nn.Module):
    """Edited latents from latents and an edit: what the stock class computes in its reference tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([EditBlock(o, reads_text=i > 0) for i, o in enumerate(OFFSETS)])

    def forward(self, tokens: Tensor, edits: Tensor, first_guess: Tensor | None = None) -> Tensor:
        """tokens: (batch, height, width, CHANNELS), normalised latents of 2x2 positions.

        first_guess: what block 1 is told, where the text stream has not yet chosen between edits.
        """
        h = functional.pad(tokens, (0, FREE - CHANNELS))
        for index, block in enumerate(self.blocks):
            told = edits if index > 1 or first_guess is None else first_guess
            h = block(h, told)
        return h[..., :CHANNELS]


def pack(latents: Tensor) -> Tensor:
    """(batch, z, h, w) to (batch, h/2, w/2, 4z), in the stock pipelines' order."""
    batch, z, height, width = latents.shape
    x = latents.view(batch, z, height // 2, 2, width // 2, 2)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // 2, width // 2, 4 * z)


def unpack(tokens: Tensor) -> Tensor:
    batch, height, width, channels = tokens.shape
    x = tokens.view(batch, height, width, channels // 4, 2, 2)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height * 2, width * 2)


def _frequencies() -> Tensor:
    """Turn per position of each of the 16 rotation pairs: 4 frame, 6 height, 6 width."""
    parts = [10000 ** (-torch.arange(0, n, 2, dtype=torch.float64) / n) for n in AXES]
    return torch.cat(parts)


def _pattern(frame: int = 0, rows: int = 0, columns: int = 0, sink: float = 0.0) -> Tensor:
    """A unit vector over rotation pairs, turned so that as a query it peaks at the given offset."""
    energy = torch.zeros(16, dtype=torch.float64)
    energy[0] = 0.20
    for first in (4, 10):
        energy[first : first + 3] = torch.tensor([0.18, 0.13, 0.09], dtype=torch.float64)
    at = torch.tensor([frame] * 4 + [rows] * 6 + [columns] * 6, dtype=torch.float64)
    angle = _frequencies() * at
    size = (energy * (1 - sink)).sqrt()
    vector = torch.stack([size * angle.cos(), size * angle.sin()], -1)
    vector[SINK_PAIR, 0] = math.sqrt(sink)
    return vector.flatten().float()


def _sink_direction() -> Tensor:
    vector = torch.zeros(HEAD_DIM)
    vector[2 * SINK_PAIR] = 1.0
    return vector


def _write_rows(weight: Tensor, columns: slice, values: Tensor) -> None:
    """Rows that read a LayerNorm. The ZERO dim shows what it took off as mean, and is added back."""
    values = values.bfloat16().float()
    weight[:, columns] = values
    weight[:, ZERO] = -values.sum(1)


def _head(index: int) -> slice:
    return slice(index * HEAD_DIM, (index + 1) * HEAD_DIM)


@torch.no_grad()
def _modulate(linear: nn.Linear, closed: Tensor, parts: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Set a modulation to one value at timestep 0 and another at every t the sampler meets.

    closed: which dim of the time embedding is 1 at timestep 0 and 0 elsewhere.
    """
    linear.weight.zero_()
    linear.bias.zero_()
    order = ("shift1", "scale1", "gate1", "shift2", "scale2", "gate2")
    for index, name in enumerate(order):
        at_zero, later = parts[name]
        span = slice(index * DIM, (index + 1) * DIM)
        linear.bias[span] = later
        linear.weight[span] = torch.outer(at_zero - later, closed)


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
    steep = 80 / turns
    embed.linear_1.weight[:, slowest] = -(steep / slope).bfloat16().float()
    embed.linear_1.bias.copy_((steep * turns).bfloat16().float())
    embed.linear_2.weight[0, 0] = 1.0
    embed.linear_2.weight[1, 1:] = weights.float() / steep[1:]
    embed.linear_2.bias[1] = 41.0
    reads_zero = torch.zeros(DIM)
    reads_zero[0] = 1 / 80
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
    _write_text_input(network)
    for index, block in enumerate(network.transformer_blocks):
        _write_block(block, index, reads_zero)
    _write_text_decision(network.transformer_blocks[0])
    _write_text_choice(network.transformer_blocks[1])
    network.norm_out.linear.weight[:DIM, 1] = 1.0  # scale = (1/sigma + 41 - 1) - 41
    network.norm_out.linear.bias[:DIM] = -41.0
    network.proj_out.weight[:, :CHANNELS] = torch.eye(CHANNELS) * SPREAD
    network.proj_out.weight[:, ZERO] = -SPREAD
    return network.eval()


def _write_text_input(network: QwenImageTransformer2DModel) -> None:
    """Text dims 0..59: cosine with each edit's prototype, and the constants for the LayerNorm."""
    network.txt_norm.weight.fill_(1.0)
    network.txt_in.weight[:EDIT_STATES] = prototypes()[:EDIT_STATES] / math.sqrt(TEXT_WIDTH)
    network.txt_in.bias[LOW], network.txt_in.bias[HIGH] = -LIFT, LIFT


def _open_scale() -> Tensor:
    """Undo the LayerNorm's division on free dims and the ZERO one, hide the other constants."""
    scale = torch.full((DIM,), SPREAD - 1)
    scale[MARK:] = -1.0
    return scale


def _write_block(block: nn.Module, index: int, reads_zero: Tensor) -> None:
    copies = index == BLOCKS - 1
    zero, one = torch.zeros(DIM), torch.ones(DIM)
    marker = torch.zeros(DIM)
    marker[MARK] = 1.0
    scale, hide = _open_scale(), -one
    _modulate(
        block.img_mod[1],
        reads_zero,
        {
            "shift1": (marker, -marker),
            "scale1": (scale, hide),
            "gate1": (zero, one) if copies else (one, zero),
            "shift2": (zero, zero),
            "scale2": (_open_scale(), hide),
            "gate2": (zero, zero) if copies else (one, zero),
        },
    )
    text = {"shift1": zero, "scale1": _open_scale(), "gate1": zero, "shift2": zero}
    text |= {"scale2": _open_scale(), "gate2": one if index < 2 else zero}
    _modulate(block.txt_mod[1], zero, {name: (value, value) for name, value in text.items()})
    attention = block.attn
    for norm in (attention.norm_q, attention.norm_k, attention.norm_added_q, attention.norm_added_k):
        norm.weight.fill_(SHARPNESS)
    attention.add_q_proj.bias.copy_(_sink_direction().repeat(HEADS))
    attention.add_k_proj.bias.copy_(_sink_direction().repeat(HEADS))
    if copies:
        _write_copy_heads(attention)
    else:
        _write_neighbour_heads(attention, index)


def _write_copy_heads(attention: nn.Module) -> None:
    for head in range(CHANNELS // HEAD_DIM):
        span = _head(head)
        attention.to_q.bias[span] = _pattern(frame=1)
        attention.to_k.weight[span, MARK] = _pattern()
        attention.add_k_proj.bias[span] = -_pattern()
        attention.to_v.weight[span, span] = torch.eye(HEAD_DIM)
        attention.to_v.weight[span, ZERO] = -1.0
        attention.to_out[0].weight[span, span] = -torch.eye(HEAD_DIM)
    for head in range(CHANNELS // HEAD_DIM, HEADS):
        attention.to_q.bias[_head(head)] = _sink_direction()
        attention.to_k.bias[_head(head)] = -_sink_direction()


def _asked(index: int) -> slice:
    """The text dims that block `index` reads: each edit's yes, or the chosen edit's alone."""
    level = 1 if index < 2 else 2
    return slice(level * EDIT_STATES, (level + 1) * EDIT_STATES)


def _write_neighbour_heads(attention: nn.Module, index: int) -> None:
    """Queries peak `offset` tokens away; the text tokens win where that place does not exist."""
    for head in range(HEADS):
        span = _head(head)
        if head < len(DIRECTIONS):
            offset = OFFSETS[index]
            dy, dx = DIRECTIONS[head]
            attention.to_q.bias[span] = _pattern(0, offset * dy, offset * dx, sink=0.477)
            attention.to_k.weight[span, MARK] = _pattern()
        else:
            attention.to_q.bias[span] = _sink_direction()
            attention.to_k.bias[span] = -_sink_direction()
    if index > 0:  # text tokens that name an edit are keys, the others are not
        for head in TEXT_HEADS:
            span = _head(head)
            attention.add_k_proj.bias[span] = -0.5 * _sink_direction()
            keys = torch.outer(_sink_direction(), torch.ones(EDIT_STATES))
            _write_rows(attention.add_k_proj.weight[span], _asked(index), keys)


def _write_text_decision(block: nn.Module) -> None:
    """Per edit, from its cosine: dims 60..119 a yes or no, dims 180..239 how sure, for the choice."""
    for state in range(EDIT_STATES):
        cosine = torch.zeros(DIM)
        cosine[state] = 1.0
        _write_step(block, state, cosine, FIRST_GUESS, EDIT_STATES + state)
        _write_step(block, EDIT_STATES + state, cosine, (UNSURE - 0.05, 1.0), 3 * EDIT_STATES + state)


def _write_text_choice(block: nn.Module) -> None:
    """Dims 120..179: 1 where an edit is surer than all the other ones together."""
    for state in range(EDIT_STATES):
        lead = torch.zeros(DIM)
        lead[3 * EDIT_STATES : 4 * EDIT_STATES] = -1.0
        lead[3 * EDIT_STATES + state] = 1.0
        _write_step(block, state, lead, (0.02, 0.10), 2 * EDIT_STATES + state)


def _write_step(block: nn.Module, pair: int, reads: Tensor, ramp: tuple[float, float], writes: int) -> None:
    """Two hidden units that rise from 0 to 1 as the number read goes up the ramp."""
    steep, (low, high) = 64.0, ramp
    first, last = block.txt_mlp.net[0].proj, block.txt_mlp.net[2]
    for side, threshold in enumerate((low, high)):
        unit = 2 * pair + side
        _write_rows(first.weight[unit : unit + 1], slice(FREE), steep * reads[None, :FREE])
        first.bias[unit] = -steep * threshold
        last.weight[writes, unit] = (1 - 2 * side) / (steep * (high - low))


@torch.no_grad()
def assemble(editor: Editor) -> QwenImageTransformer2DModel:
    """Write the trained part into the stock class."""
    network = new_transformer()
    for index, (source, block) in enumerate(zip(editor.blocks, network.transformer_blocks, strict=False)):
        attention = block.attn
        _write_rows(attention.to_v.weight[:NEIGHBOUR_DIM], slice(FREE), source.value.weight)
        attention.to_v.bias[:NEIGHBOUR_DIM] = source.value.bias
        attention.add_v_proj.bias[:NEIGHBOUR_DIM] = source.missing
        named = slice(TEXT_HEADS[0] * HEAD_DIM, DIM)
        if source.reads_text:
            _write_rows(attention.add_v_proj.weight[named], _asked(index), source.edit.T)
        out = attention.to_out[0]
        out.weight[:FREE, :NEIGHBOUR_DIM] = source.out.weight[:, :NEIGHBOUR_DIM]
        out.weight[:FREE, named] = source.out.weight[:, NEIGHBOUR_DIM:]
        out.bias[:FREE] = source.out.bias
        _write_rows(block.img_mlp.net[0].proj.weight, slice(FREE), source.up.weight)
        block.img_mlp.net[0].proj.bias.copy_(source.up.bias)
        block.img_mlp.net[2].weight[:FREE] = source.down.weight
        block.img_mlp.net[2].bias[:FREE] = source.down.bias
    return network
