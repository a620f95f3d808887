"""Models of transformers, by hub id or folder, that judge images (`--safety-checker`) and prompts (`--prompt-checker`).

An image classifier gives a score by labels that say what is unsafe; it runs on the CPU in float32, beside the device.
A guard, Qwen3Guard-Gen or Llama Guard, answers in words; it is asked through the chat template in its own folder, which
holds its policy and is never rebuilt here. How the answer is read is `engine/prompt_safety.py`'s.

Whatever cannot be used is refused when it is loaded, in one sentence: a folder that is neither, labels that do not say
what is unsafe, weights that are pickles, timm models (they need torchvision). Never runs code from a folder.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoTokenizer,
)

from retouch.engine.pipelines.device import choose_device
from retouch.engine.pipelines.folders import quiet
from retouch.engine.pipelines.hub import first_line
from retouch.engine.prompt_safety import Judgement, read_llama_guard, read_qwen_guard
from retouch.engine.safety import unsafe_labels
from retouch.errors import InvalidSetting
from retouch.images import Pixels

logger = logging.getLogger(__name__)

IMAGES, PROMPTS = "--safety-checker", "--prompt-checker"

CLASSIFIER_FILES = ("config.json", "preprocessor_config.json", "*.safetensors")
GUARD_FILES = ("*.json", "*.txt", "*.jinja", "*.safetensors")

TIMEOUT_S = 30.0
MAX_ANSWER_TOKENS = 32
PROBE = "retouch probe 31"


class NamedClassifier:
    """A loaded image classifier; `score` may be called from several threads."""

    category = None  # its labels may be of violence as well
    default_threshold = 0.5
    timeout_s = TIMEOUT_S

    def __init__(self, name: str, model: Any, processor: Any, unsafe: Sequence[int], *, independent: bool) -> None:
        """unsafe: indexes of the labels that count. independent: several labels may hold at once."""
        self.name = name
        self.unsafe = tuple(unsafe)
        self._model = model
        self._processor = processor
        self._independent = independent

    @torch.inference_mode()
    def score(self, image: Pixels) -> float:
        """The unsafe labels' share of the softmax, or the largest of their sigmoids where labels are independent."""
        inputs = self._processor(images=image, input_data_format="channels_last", return_tensors="pt")
        logits: torch.Tensor = self._model(**inputs).logits[0].float()
        if self._independent:
            return float(logits.sigmoid()[list(self.unsafe)].max())
        return min(1.0, float(logits.softmax(dim=0)[list(self.unsafe)].sum()))


def load_image_classifier(name: str, labels: Sequence[str] = ()) -> NamedClassifier:
    """The classifier of a folder or hub id. labels: the operator's choice of unsafe ones. Raises InvalidSetting."""
    folder = _find_folder(IMAGES, name, CLASSIFIER_FILES)
    if _is_timm(folder / "config.json"):
        reason = "it is a timm model, which needs torchvision; choose a ViT of transformers instead"
        raise _unusable(IMAGES, name, reason)
    with _reading(IMAGES, name, "its config.json cannot be read"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not any(str(each).endswith("ForImageClassification") for each in config.architectures or ()):
        held = ", ".join(config.architectures or ()) or config.model_type or "nothing known"
        raise _unusable(IMAGES, name, f"it holds {held}, which is no image classifier")
    if not (folder / "preprocessor_config.json").is_file():
        reason = "it has no preprocessor_config.json, so how its images are prepared is not known"
        raise _unusable(IMAGES, name, reason)
    _check_weights(IMAGES, name, folder)
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    chosen = unsafe_labels(names, labels)
    logger.info("%s: unsafe is %s of %s", name, ", ".join(chosen), ", ".join(names))
    with _reading(IMAGES, name, "it cannot be loaded"):
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, loading_info = AutoModelForImageClassification.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    if loading_info["missing_keys"]:
        raise _unusable(IMAGES, name, f"weights are missing, such as {min(loading_info['missing_keys'])}")
    independent = config.problem_type == "multi_label_classification"
    unsafe = [index for index, label in enumerate(names) if label in chosen]
    return NamedClassifier(name, model.eval(), processor, unsafe, independent=independent)


def _is_timm(config: Path) -> bool:
    """Whether it is timm's own config file, or transformers' wrapper of one; without timm neither can be read."""
    try:
        values = json.loads(config.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and (values.get("model_type") == "timm_wrapper" or "pretrained_cfg" in values)


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


def load_guard(name: str, device: str) -> GuardModel:
    """The guard of a folder or hub id on `device`. Raises InvalidSetting."""
    folder = _find_folder(PROMPTS, name, GUARD_FILES)
    _check_weights(PROMPTS, name, folder)
    with _reading(PROMPTS, name, "its tokenizer cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # Which guard it is shows in what its own template tells the model to answer.
    template = str(getattr(tokenizer, "chat_template", None) or "")
    if "Safety:" in template and "Controversial" in template:
        read = read_qwen_guard
    elif "S1" in template and "unsafe" in template:
        read = read_llama_guard
    else:
        reason = "its chat template is neither that of Qwen3Guard-Gen nor that of Llama Guard"
        raise _unusable(PROMPTS, name, reason)
    parts = _wants_parts(name, tokenizer)
    target = choose_device(device)
    with _reading(PROMPTS, name, "it cannot be loaded"):
        model, loading_info = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.bfloat16 if target.type == "cuda" else torch.float32,
            device_map={"": str(target)},
        )
    missing = sorted(key for key in loading_info["missing_keys"] if not key.startswith("lm_head."))
    if missing:
        raise _unusable(PROMPTS, name, f"weights are missing, such as {missing[0]}")
    return GuardModel(name, model.eval(), tokenizer, read, parts=parts)


def _wants_parts(name: str, tokenizer: Any) -> bool:
    """Llama Guard 3 1B and 4 want a list of parts, the others plain text; whichever shows the prompt is right."""
    for parts in (False, True):
        try:
            if PROBE in conversation(tokenizer, PROBE, parts=parts):
                return parts
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            logger.info("the template of %s does not take content as %s: %s", name, "parts" if parts else "text", error)
    raise _unusable(PROMPTS, name, "its chat template does not show the prompt")


# --- both


def _find_folder(option: str, name: str, wanted: Sequence[str]) -> Path:
    """A local folder, or the hub's copy of `wanted` files, fetched when missing. Raises InvalidSetting."""
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if name.startswith((".", "/", "~")):
        raise InvalidSetting(f"{option}: there is no folder '{name}'.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(wanted)))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = first_line(error).rstrip(".")
        raise InvalidSetting(f"{option}: '{name}' is not on this machine and could not be fetched: {reason}") from None


def _check_weights(option: str, name: str, folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        raise _unusable(option, name, "it has no weights in safetensors; pickles are never read")


@contextmanager
def _reading(option: str, name: str, trouble: str) -> Iterator[None]:
    """Without the library's own messages; its errors become one sentence that begins with `trouble`."""
    try:
        with quiet():
            yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise _unusable(option, name, f"{trouble}: {first_line(error).rstrip('.')}") from None


def _unusable(option: str, name: str, reason: str) -> InvalidSetting:
    return InvalidSetting(f"{option}: '{name}' cannot be used: {reason}.")
