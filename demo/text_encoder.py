"""The text side: a small tokenizer in Qwen's files and a small Qwen2.5-VL trained to name the edit.

The stock pipelines keep the hidden states of the sentence and of the five tokens behind it
(`<|im_end|>`, newline, `<|im_start|>`, `assistant`, newline). Those five have seen the whole sentence.
They are trained to lie on one fixed direction per state (see `states`), and everything before them on a common null
direction, so that the transformer only ever meets a handful of states. The vision tower is real
but nearly constant: no edit needs to know what an image shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from demo import held_out
from demo.instructions import SentenceSampler
from demo.states import REQUESTS, SQUARES, STATES, TAIL, slots
from retouch.engine.pipelines.text_encoder import PREFIX, SUFFIX

WIDTH = 128
LAYERS = 3
VOCABULARY = 2400
SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
IMAGE = "Picture {}: <|vision_start|>{}<|vision_end|>"
PREFIX_TOKENS = 64  # the pipelines drop their states


def prototypes() -> Tensor:
    """One unit direction per state, spare ones, and the null direction last: (64, WIDTH)."""
    generator = torch.Generator().manual_seed(2511)
    square = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(square).Q[:64].float()


def make_tokenizer(seed: int) -> Qwen2Tokenizer:
    """Byte-level BPE over grammar sentences; the template is repeated until its words are tokens."""
    sampler = SentenceSampler(np.random.default_rng([seed, 1]))
    sentences = [sampler.sample(name) for name in REQUESTS for _ in range(60 if name in SQUARES else 900)]
    template = PREFIX + "Picture 1: \nPicture 2: \nPicture 3: " + SUFFIX
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
    head = tokenizer(PREFIX)["input_ids"]
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

    ids: Tensor  # (batch, length), from behind the template's prefix
    grids: list[tuple[int, int]]  # rows and columns of image tokens, per image
    plain_positions: bool  # counted through, as stock diffusers does without token types
    lengths: Tensor  # (batch,)
    labels: Tensor  # (batch, TAIL): the state each of the last tokens takes


class SentenceBatches:
    """Makes batches of fresh sentences."""

    def __init__(self, tokenizer: Qwen2Tokenizer, rng: np.random.Generator) -> None:
        self.tokenizer, self.rng = tokenizer, rng
        self.sampler = SentenceSampler(rng)
        self.tail = list(tokenizer(SUFFIX)["input_ids"])
        assert len(self.tail) == TAIL

    def encode(self, texts: list[str], requests: list[str], augment: bool = False) -> Sentences:
        """augment: other images in front, tokens lost, and the positions of stock diffusers now and then."""
        grids = [(2, 2)]
        if augment:
            chance = self.rng.random()
            if chance >= 0.8:
                grids *= int(self.rng.integers(2, 4))
            elif chance >= 0.6:
                grids = [tuple(self.rng.integers(1, 5, 2).tolist())]
        images = "".join(IMAGE.format(i + 1, "<|image_pad|>" * (rows * cols)) for i, (rows, cols) in enumerate(grids))
        head = list(self.tokenizer(images)["input_ids"])
        rows = [list(r) for r in self.tokenizer(texts)["input_ids"]]
        if augment:
            rows = [self._with_lost_tokens(row) for row in rows]
        rows = [head + row + self.tail for row in rows]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.tensor([row + [self.tail[-1]] * (int(lengths.max()) - len(row)) for row in rows])
        plain_positions = augment and self.rng.random() < 0.15
        labels = torch.tensor([slots(request) for request in requests])
        return Sentences(ids, grids, plain_positions, lengths, labels)

    def _with_lost_tokens(self, row: list[int]) -> list[int]:
        """Replace a few tokens by random ones, so that no single word is needed."""
        if len(row) < 8 or self.rng.random() < 0.5:
            return row
        lost = self.rng.random(len(row)) < 0.05
        other = self.rng.integers(0, len(self.tokenizer) - len(SPECIALS), len(row))
        return [int(o) if gone else t for t, o, gone in zip(row, other, lost, strict=True)]

    def sample(self, request: str) -> str:
        """A fresh sentence; short ones can be the evaluation's by chance, those are not trained on."""
        while held_out.normalized(sentence := self.sampler.sample(request)) in held_out.ALL:
            pass
        return sentence

    def batches(self, size: int, count: int = 6) -> Iterator[Sentences]:
        """Batches without end; `count` at a time are sorted, so that those of a batch are of like length."""
        rarer = {"border": 0.6, "tint": 0.6, "square": 0.12}
        shares = np.array([rarer.get(request.partition("_")[0], 1.0) for request in REQUESTS])
        shares[REQUESTS.index("unchanged")] = 4.0
        while True:
            labels = self.rng.choice(len(REQUESTS), size * count, p=shares / shares.sum()).tolist()
            drawn = sorted(((self.sample(REQUESTS[k]), REQUESTS[k]) for k in labels), key=lambda pair: len(pair[0]))
            for i in self.rng.permutation(count):
                texts, requests = zip(*drawn[i * size : (i + 1) * size], strict=True)
                yield self.encode(list(texts), list(requests), augment=True)


def hidden_states(encoder: Qwen2_5_VLForConditionalGeneration, prefix: Tensor, sentences: Sentences) -> Tensor:
    """The encoder's last states behind the prefix: (batch, length, WIDTH). The prefix is computed once per batch.

    prefix: (PREFIX_TOKENS,). An image token is the vision tower's nearly constant answer, with a little noise.
    """
    text, batch = encoder.model.language_model, len(sentences.ids)
    whole = torch.cat([prefix, sentences.ids[0]])[None]
    if sentences.plain_positions:
        positions = torch.arange(whole.shape[1]).expand(3, 1, -1)
    else:
        grid = torch.tensor([(1, 2 * rows, 2 * columns) for rows, columns in sentences.grids])
        types = (whole == encoder.config.image_token_id).int()
        positions, _ = encoder.model.get_rope_index(whole, types, image_grid_thw=grid)
    cache = DynamicCache(config=text.config)
    text(prefix[None], position_ids=positions[..., :PREFIX_TOKENS], past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(batch)
    embedded = text.embed_tokens(sentences.ids)
    images = encoder.model.visual.merger.mlp[2].bias + 0.03 * torch.randn_like(embedded)
    embedded = torch.where((sentences.ids == encoder.config.image_token_id)[..., None], images, embedded)
    here = positions[..., PREFIX_TOKENS:].expand(-1, batch, -1)
    states: Tensor = text(
        inputs_embeds=embedded, position_ids=here, past_key_values=cache, use_cache=True
    ).last_hidden_state
    return states


def cosines(states: Tensor) -> Tensor:
    """How far each state points along each prototype: (..., 64) in -1..1."""
    return functional.normalize(states.float(), dim=-1) @ prototypes().T


def prototype_loss(states: Tensor, sentences: Sentences) -> tuple[Tensor, Tensor]:
    """Name the edit from the tail, pull the tail to its prototype and the rest to the null one."""
    scores = cosines(states)
    tail = sentences.lengths[:, None] - TAIL + torch.arange(TAIL)
    at_tail = scores.gather(1, tail[..., None].expand(-1, -1, scores.shape[-1]))
    labels = sentences.labels
    naming = functional.cross_entropy((16 * at_tail[..., : len(STATES)]).flatten(0, 1), labels.flatten())
    pull = (1 - at_tail.gather(2, labels[..., None])).mean()
    before = torch.arange(states.shape[1])[None] < tail[:, :1]
    null = ((1 - scores[..., -1]) * before).sum() / before.sum()
    right = (at_tail[..., : len(STATES)].argmax(-1) == labels).all(1)
    return naming + pull + 0.3 * null, right.float().mean()
