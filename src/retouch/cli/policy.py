"""From the operator's settings to what a worker does besides running its model: `JobPolicy`.

What cannot be used is one sentence, where possible before anything is loaded. Imports no torch; what needs it is loaded
by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from safetensors import SafetensorError

from retouch.catalog import Checkpoint
from retouch.engine import rewrite
from retouch.engine.engine import Engine
from retouch.engine.open_nsfw import OpenNsfw
from retouch.engine.pipeline import Pipeline, Speaks
from retouch.engine.pipelines import has_gpu, load_guard, load_image_classifier
from retouch.engine.prompt_safety import PromptChecker, PromptClassifier, ResidentClassifier
from retouch.engine.rewrite import PromptExpander, Rewriter
from retouch.engine.safety import ImageChecker
from retouch.errors import InvalidSetting
from retouch.images import NO_PROVENANCE, XMP_PROVENANCE, ContentCredentials, Provenance
from retouch.settings import ProvenanceSettings, RewriterSettings, SafetySettings
from retouch.worker.chat import ChatRewriter
from retouch.worker.policy import JobPolicy, ResidentRewriter, ask_resident
from retouch.worker.staging import Moderation, SafetyTally

RESIDENT = "resident"
WORDS = ("auto", "off", RESIDENT)
"""What `--rewriter` may be besides an address."""


def check_safety(safety: SafetySettings, checkpoint: Checkpoint) -> None:
    """Raise InvalidSetting for what can be seen to be wrong without loading anything."""
    if safety.safety_labels and safety.safety_checker in ("auto", "off"):
        raise InvalidSetting("--safety-labels names labels of a classifier; give that with --safety-checker NAME.")
    if safety.prompt_threshold is not None and safety.prompt_checker != RESIDENT:
        raise InvalidSetting(
            "--prompt-threshold is for --prompt-checker resident; a guard model answers in words, without a score."
        )
    if safety.prompt_checker == RESIDENT:
        _must_speak(checkpoint, "--prompt-checker")


def check_rewriter(settings: RewriterSettings, checkpoint: Checkpoint) -> None:
    """The same for the rewriter."""
    if settings.rewriter not in WORDS:
        _chat_rewriter(settings)
    elif settings.rewriter_model is not None:
        raise InvalidSetting("--rewriter-model names a model of a chat server; give its address with --rewriter URL.")
    if settings.rewriter == RESIDENT:
        _must_speak(checkpoint, "--rewriter")
    _rules(settings.rewriter_prompt)


def _must_speak(checkpoint: Checkpoint, option: str) -> None:
    if not checkpoint.speaks:
        raise InvalidSetting(
            f"{option} resident needs a checkpoint whose text encoder can answer in words; "
            f"that of '{checkpoint.name}' cannot."
        )


def speaks(safety: SafetySettings, rewriter: RewriterSettings, checkpoint: Checkpoint, device: str) -> Speaks:
    """What the checkpoint's language model is loaded for. `auto` rewrites where that takes seconds, on a GPU."""
    resident = rewriter.rewriter == RESIDENT
    if rewriter.rewriter == "auto" and checkpoint.speaks:
        resident = has_gpu(device)
    return Speaks(rewrites=resident, judges=safety.prompt_checker == RESIDENT)


def job_policy(  # noqa: PLR0917 - one settings class for each component
    safety: SafetySettings,
    rewriter: RewriterSettings,
    provenance: ProvenanceSettings,
    device: str,
    engine: Engine,
    pipeline: Pipeline,
) -> JobPolicy:
    """Load everything that is asked for. Raises InvalidSetting, UnsupportedParameter."""
    model = pipeline.language_model

    def resident() -> Callable[[str], float]:
        assert model is not None, "it was loaded to judge"
        return ask_resident(engine, model)

    checks = moderation(safety, device, resident)
    rewrites: Rewriter | None = None
    if rewriter.rewriter not in WORDS:
        rewrites = _chat_rewriter(rewriter)
    elif rewriter.rewriter != "off" and model is not None and model.rewrites:
        rewrites = ResidentRewriter(engine, model, _rules(rewriter.rewriter_prompt))
    elif rewriter.rewriter == RESIDENT:
        raise InvalidSetting(
            "--rewriter resident needs the text encoder on the GPU, and --offload keeps it away; say --offload none, "
            "or name a chat server with --rewriter."
        )
    expander = None if rewrites is None else PromptExpander(rewrites)
    return JobPolicy(moderation=checks, expander=expander, provenance=provenance_of(provenance))


def moderation(safety: SafetySettings, device: str, resident: Callable[[], Callable[[str], float]]) -> Moderation:
    """resident: makes the function that asks the loaded model about a prompt; called when that is to judge."""
    tally = SafetyTally()
    classifier: PromptClassifier | None = None
    if safety.prompt_checker == RESIDENT:
        threshold = 0.5 if safety.prompt_threshold is None else safety.prompt_threshold
        classifier = ResidentClassifier(resident(), threshold)
    elif safety.prompt_checker != "off":
        classifier = _guard(safety.prompt_checker, device)
    images = None
    if safety.safety_checker == "auto":
        try:
            images = ImageChecker(OpenNsfw(), safety.safety_threshold, tally.count)
        except (OSError, SafetensorError) as error:
            raise InvalidSetting(
                f"The packaged safety checker cannot be loaded ({error}); install Retouch again, or use "
                "--safety-checker off."
            ) from None
    elif safety.safety_checker != "off":
        named = load_image_classifier(safety.safety_checker, safety.safety_labels)
        images = ImageChecker(named, safety.safety_threshold, tally.count)
    return Moderation(
        images=images,
        prompts=None
        if classifier is None
        else PromptChecker(classifier, lambda verdict, seconds: tally.count("prompt", verdict, seconds)),
        failure=safety.safety_failure,
        enforce=safety.safety_enforce,
        tally=tally,
    )


def provenance_of(settings: ProvenanceSettings) -> Provenance:
    """Raises InvalidSetting when files are to be signed and cannot."""
    if settings.provenance == "c2pa":
        if settings.provenance_cert is None or settings.provenance_key is None:
            raise InvalidSetting("--provenance c2pa needs --provenance-cert and --provenance-key.")
        return Provenance(credentials=ContentCredentials(settings.provenance_cert, settings.provenance_key))
    if settings.provenance_cert is not None or settings.provenance_key is not None:
        raise InvalidSetting("--provenance-cert and --provenance-key are for --provenance c2pa.")
    return XMP_PROVENANCE if settings.provenance == "metadata" else NO_PROVENANCE


@cache
def _guard(name: str, device: str) -> PromptClassifier:
    """Once for all models of this process."""
    return load_guard(name, device)


def _chat_rewriter(settings: RewriterSettings) -> ChatRewriter:
    key = None if settings.rewriter_key is None else settings.rewriter_key.get_secret_value()
    rules = _rules(settings.rewriter_prompt)
    return ChatRewriter(settings.rewriter, settings.rewriter_model or "default", key, rules=rules)


def _rules(file: Path | None) -> str:
    if file is None:
        return rewrite.RULES
    try:
        rules = file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidSetting(f"--rewriter-prompt: {file} cannot be read: {reason}.") from None
    if not rules:
        raise InvalidSetting(f"--rewriter-prompt: {file} is empty.")
    return rules
