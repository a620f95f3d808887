"""Guard models by hub id or folder, which judge a prompt in words: Qwen3Guard-Gen and Llama Guard.

Each is asked through the chat template in its own folder, which holds its policy and is never rebuilt here. What is
neither of the two is refused when it is loaded. How the answer is read is `engine/prompt_safety.py`'s.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from retouch.engine.pipelines.folders import choose_device, quiet
from retouch.engine.pipelines.image_classifiers import find_folder, first_line
from retouch.engine.prompt_safety import Judgement, read_llama_guard, read_qwen_guard
from retouch.errors import InvalidSetting

logger = logging.getLogger(__name__)

WANTED = ("*.json", "*.txt", "*.jinja", "*.safetensors")
MAX_ANSWER_TOKENS = 32
PROBE = "retouch probe 31"


class GuardModel:
    """A loaded guard. `judge` may be called from several threads; they wait for each other."""

    def __init__(self, name: str, model: Any, tokenizer: Any, read: Callable[[str], Judgement], *, parts: bool) -> None:
        """read: of its answer. parts: whether its template wants the message's content as a list of parts."""
        self.name = name
        self._model = model
        self._tokenizer = tokenizer
        self._read = read
        self._parts = parts
        self._lock = threading.Lock()

    def judge(self, prompt: str) -> Judgement:
        """Raises ValueError when the answer is not in the guard's own form."""
        with self._lock, torch.inference_mode():  # a tokenizer may not be used by two threads at once either
            text = conversation(self._tokenizer, prompt, parts=self._parts)
            inputs = self._tokenizer(text, return_tensors="pt", add_special_tokens=False).to(self._model.device)
            ids = self._model.generate(
                **inputs, do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS, pad_token_id=self._tokenizer.eos_token_id
            )
            answer = self._tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return self._read(answer)


def conversation(tokenizer: Any, prompt: str, *, parts: bool) -> str:
    """The guard's own template around one user message. Its opened answer is part of it, so nothing is added."""
    content = [{"type": "text", "text": prompt}] if parts else prompt
    text: str = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    return text


def load(name: str, device: str) -> GuardModel:
    """The guard of a folder or hub id on `device`. Raises InvalidSetting."""
    folder = find_folder(name, WANTED, option="--prompt-checker")
    if not any(folder.glob("*.safetensors")):
        raise _unusable(name, "it has no weights in safetensors; pickles are never read")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unusable(name, f"its tokenizer cannot be read: {first_line(error)}") from None
    read = _reader(name, str(getattr(tokenizer, "chat_template", None) or ""))
    parts = _wants_parts(name, tokenizer)
    target = choose_device(device)
    try:
        with quiet():
            model, told = AutoModelForCausalLM.from_pretrained(
                folder,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.bfloat16 if target.type == "cuda" else torch.float32,
                device_map={"": str(target)},
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise _unusable(name, f"it cannot be loaded: {first_line(error)}") from None
    missing = sorted(key for key in told["missing_keys"] if not key.startswith("lm_head."))
    if missing:
        raise _unusable(name, f"weights are missing, such as {missing[0]}")
    return GuardModel(name, model.eval(), tokenizer, read, parts=parts)


def _reader(name: str, template: str) -> Callable[[str], Judgement]:
    """Which guard it is, by what its own template tells the model to answer."""
    if "Safety:" in template and "Controversial" in template:
        return read_qwen_guard
    if "S1" in template and "unsafe" in template:
        return read_llama_guard
    raise _unusable(name, "its chat template is neither that of Qwen3Guard-Gen nor that of Llama Guard")


def _wants_parts(name: str, tokenizer: Any) -> bool:
    """Llama Guard 3 1B and 4 want a list of parts, the others plain text; whichever shows the prompt is right."""
    for parts in (False, True):
        try:
            if PROBE in conversation(tokenizer, PROBE, parts=parts):
                return parts
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            logger.info("the template of %s does not take content as %s: %s", name, "parts" if parts else "text", error)
    raise _unusable(name, "its chat template does not show the prompt")


def _unusable(name: str, reason: str) -> InvalidSetting:
    return InvalidSetting(f"--prompt-checker: '{name}' cannot be used: {reason}.")
