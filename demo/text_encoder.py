"""The text side: a small tokenizer in Qwen's files and a small Qwen2.5-VL trained to name the edit.

The stock pipelines keep the hidden states of the sentence and of the five tokens behind it
(`<|im_end|>`, newline, `<|im_start|>`, `assistant`, newline). Those five have seen the whole sentence.
They are trained to lie on one fixed direction per state (see `states`), and everything before them on a common null
direction, so that the picture network only ever meets a handful of states. The vision tower is real
but nearly constant: no edit needs to know what a picture shows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import rotate_half

from demo import held_out
from demo.instructions import SentenceSampler
from demo.loop import Plan, Schedule, Stage, seeded
from demo.states import REQUESTS, SQUARES, STATES, TAIL, slots

WIDTH = 128
LAYERS = 3
VOCABULARY = 2400
BATCH = 64
SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
# Source: diffusers 0.42.1, QwenImageEditPlusPipeline; the pipelines drop the first 64 tokens.
TEMPLATE_HEAD = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, "
    "objects, background), then explain how the user's text instruction should alter or modify the "
    "image. Generate a new image that meets the user's requirements while maintaining consistency "
    "with the original input where appropriate.<|im_end|>\n<|im_start|>user\n"
)
TEMPLATE_TAIL = "<|im_end|>\n<|im_start|>assistant\n"
PICTURE = "Picture {}: <|vision_start|>{}<|vision_end|>"
PREFIX_TOKENS = 64


def prototypes() -> Tensor:
    """One unit direction per state, spare ones, and the null direction last: (64, WIDTH)."""
    generator = torch.Generator().manual_seed(2511)
    square = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(square).Q[:64].float()


def make_tokenizer(seed: int) -> Qwen2Tokenizer:
    """Byte-level BPE over grammar sentences; the template is repeated until its words are tokens."""
    sampler = SentenceSampler(np.random.default_rng([seed, 1]))
    sentences = [sampler.sample(name) for name in REQUESTS for _ in range(60 if name in SQUARES else 900)]
    template = TEMPLATE_HEAD + "Picture 1: \nPicture 2: \nPicture 3: " + TEMPLATE_TAIL
    for special in SPECIALS:
        template = template.replace(special, "\n")
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False, min_frequency=3
    )
    bpe.train_from_iterator(sentences + [template] * 4000, trainer)
    vocabulary = bpe.get_vocab()
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIALS)})
    head = tokenizer(TEMPLATE_HEAD)["input_ids"]
    assert len(head) == PREFIX_TOKENS, f"the template prefix has {len(head)} tokens"
    return tokenizer


def new_text_encoder(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in
           ("vision_start", "vision_end", "image_pad", "video_pad", "im_end", "endoftext")}  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": [4, 6, 6],
            },
            "tie_word_embeddings": True,
            "bos_token_id": ids["endoftext"],
            "eos_token_id": ids["im_end"],
            "pad_token_id": ids["endoftext"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    encoder = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        last = encoder.model.visual.merger.mlp[2]
        last.weight.mul_(0.002 / last.weight.std())
        last.bias.normal_(0, 0.1)
        encoder.model.language_model.embed_tokens.weight.normal_(0, 0.1)
    encoder.model.visual.requires_grad_(requires_grad=False)
    encoder.model.language_model.norm.weight.requires_grad_(requires_grad=False)
    return encoder.eval()


@dataclass(frozen=True)
class Sentences:
    """A batch behind one common prefix, padded on the right."""

    ids: Tensor  # (batch, length)
    positions: Tensor  # (3, length): M-RoPE positions
    lengths: Tensor  # (batch,)
    labels: Tensor  # (batch, TAIL): the state each of the last tokens takes


def _picture_head(tokenizer: Qwen2Tokenizer, grids: list[tuple[int, int]]) -> list[int]:
    text = "".join(PICTURE.format(i + 1, "<|image_pad|>" * (rows * columns)) for i, (rows, columns) in enumerate(grids))
    return list(tokenizer(text)["input_ids"])


def _positions(ids: list[int], pad: int, grids: list[tuple[int, int]], length: int) -> Tensor:
    """M-RoPE positions as transformers computes them with mm_token_type_ids: (3, length)."""
    rows: list[tuple[int, int, int]] = []
    at, i, left = PREFIX_TOKENS, 0, list(grids)
    while len(rows) < length:
        if i < len(ids) and ids[i] == pad:
            height, width = left.pop(0)
            rows += [(at, at + y, at + x) for y in range(height) for x in range(width)]
            at += max(height, width)
            i += height * width
        else:
            rows.append((at, at, at))
            at, i = at + 1, i + 1
    return torch.tensor(rows[:length]).T


def _shares() -> np.ndarray:
    """How often each request is trained on."""
    weights = np.ones(len(REQUESTS))
    for i, request in enumerate(REQUESTS):
        if request.startswith(("border", "tint")):
            weights[i] = 0.6
        elif request in SQUARES:
            weights[i] = 0.12
    weights[REQUESTS.index("unchanged")] = 4.0
    return weights / weights.sum()


class Reader:
    """Makes batches of fresh sentences."""

    def __init__(self, tokenizer: Qwen2Tokenizer, rng: np.random.Generator) -> None:
        self.tokenizer, self.rng = tokenizer, rng
        self.sampler = SentenceSampler(rng)
        self.pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.tail = list(tokenizer(TEMPLATE_TAIL)["input_ids"])
        assert len(self.tail) == TAIL

    def _grids(self) -> list[tuple[int, int]]:
        kind = self.rng.random()
        if kind < 0.6:
            return [(2, 2)]
        if kind < 0.8:
            return [(int(a), int(b)) for a, b in self.rng.integers(1, 5, (1, 2))]
        return [(2, 2)] * int(self.rng.integers(2, 4))

    def read(self, texts: list[str], requests: list[str], plain: bool = True) -> Sentences:
        grids = [(2, 2)] if plain else self._grids()
        head = _picture_head(self.tokenizer, grids)
        rows = [list(r) for r in self.tokenizer(texts)["input_ids"]]
        if not plain:
            rows = [self._forget(row) for row in rows]
        rows = [head + row + self.tail for row in rows]
        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        ids = torch.tensor([row + [self.tail[-1]] * (longest - len(row)) for row in rows])
        positions = _positions(head, self.pad, grids, longest)
        if not plain and self.rng.random() < 0.15:  # what stock diffusers does without token types
            positions = torch.arange(longest).expand(3, -1) + PREFIX_TOKENS
        return Sentences(ids, positions, lengths, torch.tensor([slots(request) for request in requests]))

    def _forget(self, row: list[int]) -> list[int]:
        """Replace a few tokens by random ones, so that no single word is needed."""
        if len(row) < 8 or self.rng.random() < 0.5:
            return row
        lost = self.rng.random(len(row)) < 0.05
        other = self.rng.integers(0, len(self.tokenizer) - len(SPECIALS), len(row))
        return [int(o) if gone else t for t, o, gone in zip(row, other, lost, strict=True)]

    def say(self, request: str) -> str:
        """A fresh sentence; short ones can be the evaluation's by chance, those are not trained on."""
        while held_out.normalized(sentence := self.sampler.sample(request)) in held_out.ALL:
            pass
        return sentence

    def batches(self, size: int, count: int = 6) -> list[Sentences]:
        """Fresh batches of sentences of like length, in random order."""
        labels = self.rng.choice(len(REQUESTS), size * count, p=_shares()).tolist()
        said = sorted(((self.say(REQUESTS[k]), REQUESTS[k]) for k in labels), key=lambda pair: len(pair[0]))
        made = []
        for i in self.rng.permutation(count):
            texts, chosen = zip(*said[i * size : (i + 1) * size], strict=True)
            made.append(self.read(list(texts), list(chosen), plain=False))
        return made


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention with shared key heads; plain, because SDPA's CPU backward is twice as slow."""
    shared = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask
    return scores.softmax(-1) @ v


class TailStates:
    """The encoder's last hidden states behind the prefix, with the prefix computed once per batch."""

    def __init__(self, encoder: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer) -> None:
        self.text = encoder.model.language_model
        self.visual_bias = encoder.model.visual.merger.mlp[2].bias
        self.prefix = torch.tensor(tokenizer(TEMPLATE_HEAD)["input_ids"])[None]
        self.pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def _embed(self, ids: Tensor) -> Tensor:
        h = self.text.embed_tokens(ids)
        pictures = self.visual_bias + 0.03 * torch.randn_like(h)
        return torch.where((ids == self.pad)[..., None], pictures, h)

    def _attend(self, layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = layer.self_attn
        q, k, v = (
            project(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin, v

    def __call__(self, sentences: Sentences) -> Tensor:
        """(batch, length, WIDTH), normalised by the final norm."""
        batch, length = sentences.ids.shape
        p, s = self._embed(self.prefix), self._embed(sentences.ids)
        both = torch.cat([torch.arange(PREFIX_TOKENS).expand(3, -1), sentences.positions], 1)
        cos, sin = self.text.rotary_emb(s.float(), both[:, None])
        cos, sin = cos[:, None], sin[:, None]
        split = PREFIX_TOKENS
        mask = torch.full((length, split + length), -torch.inf).triu(split + 1)
        prefix_mask = torch.full((split, split), -torch.inf).triu(1)
        for layer in self.text.layers:
            pq, pk, pv = self._attend(layer, layer.input_layernorm(p), cos[:, :, :split], sin[:, :, :split])
            q, k, v = self._attend(layer, layer.input_layernorm(s), cos[:, :, split:], sin[:, :, split:])
            k = torch.cat([pk.expand(batch, -1, -1, -1), k], 2)
            v = torch.cat([pv.expand(batch, -1, -1, -1), v], 2)
            a = _attention(q, k, v, mask)
            pa = _attention(pq, pk, pv, prefix_mask)
            s = s + layer.self_attn.o_proj(a.transpose(1, 2).flatten(2))
            p = p + layer.self_attn.o_proj(pa.transpose(1, 2).flatten(2))
            s = s + layer.mlp(layer.post_attention_layernorm(s))
            p = p + layer.mlp(layer.post_attention_layernorm(p))
        return self.text.norm(s)


def cosines(states: Tensor) -> Tensor:
    """How far each state points along each prototype: (..., 64) in -1..1."""
    return functional.normalize(states.float(), dim=-1) @ prototypes().to(states.device).T


def tail_index(lengths: Tensor) -> Tensor:
    return lengths[:, None] - TAIL + torch.arange(TAIL)


def class_tight_loss(states: Tensor, sentences: Sentences) -> tuple[Tensor, Tensor]:
    """Name the edit from the tail, pull the tail to its prototype and the rest to the null one."""
    scores = cosines(states)
    tail = tail_index(sentences.lengths)
    at_tail = scores.gather(1, tail[..., None].expand(-1, -1, scores.shape[-1]))
    labels = sentences.labels
    naming = functional.cross_entropy((16 * at_tail[..., : len(STATES)]).flatten(0, 1), labels.flatten())
    pull = (1 - at_tail.gather(2, labels[..., None])).mean()
    before = torch.arange(states.shape[1])[None] < tail[:, :1]
    null = ((1 - scores[..., -1]) * before).sum() / before.sum()
    right = (at_tail[..., : len(STATES)].argmax(-1) == labels).all(1)
    return naming + pull + 0.3 * null, right.float().mean()


def train_text_encoder(folder: Path, tokenizer: Qwen2Tokenizer, plan: Plan) -> bool:
    """A small network over short sentences: always on the CPU."""
    encoder = new_text_encoder(tokenizer, plan.seed)
    schedule = Schedule(2e-3, plan.minutes * 60, 200)
    stage = Stage("text", folder, encoder, schedule, weight_decay=0.02, stop_after_s=plan.stop_after_s)
    reader = Reader(tokenizer, seeded(plan.seed, 2, stage.step))
    run = TailStates(encoder, tokenizer)
    correct = 0.0
    waiting: list[Sentences] = []
    while stage.running:
        waiting = waiting or reader.batches(BATCH)
        sentences = waiting.pop()
        with torch.autocast("cpu", torch.bfloat16):
            states = run(sentences)
        loss, accuracy = class_tight_loss(states, sentences)
        stage.tick(loss)
        correct += 0.02 * (accuracy.item() - correct)
        if stage.step % 200 == 0 or not stage.running:
            print(
                f"text {stage.step} {stage.elapsed_s:.0f}s loss {loss.item():.4f} "
                f"named on fresh sentences {correct:.3f}",
                flush=True,
            )
            stage.save()
    stage.save()
    return stage.finished
