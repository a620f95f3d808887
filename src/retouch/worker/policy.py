"""What a worker does to an edit besides running its model: checks, rewritten prompts, marks in the files.

Built by the command line from the operator's settings, once the model is loaded, because two of the three may ask the
model itself. Here is also how the loaded model is asked from a staging thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from retouch.engine.engine import Engine
from retouch.engine.pipeline import LanguageModel
from retouch.engine.rewrite import PromptExpander
from retouch.errors import RetouchError, Unavailable
from retouch.images import XMP_PROVENANCE, Pixels, Provenance
from retouch.worker.staging import Moderation

logger = structlog.get_logger(__name__)

T = TypeVar("T")

POLL_S = 0.05
"""How long an answer that is not needed any more may go on, beside the word it is in."""

JUDGE_S = 30.0


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """expander: None where nothing rewrites prompts."""

    moderation: Moderation = field(default_factory=Moderation)
    expander: PromptExpander | None = None
    provenance: Provenance = XMP_PROVENANCE


class ResidentRewriter:
    """The loaded model's own language model, which speaks between others' denoise steps. rules: what it is told."""

    def __init__(self, engine: Engine, model: LanguageModel, rules: str) -> None:
        self._engine = engine
        self._model = model
        self._rules = rules
        self.name = f"resident {rules}"

    def answer(self, prompt: str, images: Sequence[Pixels], cancelled: Callable[[], bool]) -> str:
        """Raises InvalidRequest for a prompt that the model cannot take, Unavailable for every other trouble."""
        try:
            return wait_for(self._engine.interleave(self._model.rewrite(prompt, images, self._rules)), cancelled)
        except RetouchError:
            raise
        except Exception as error:
            logger.exception("the resident rewriter failed")
            raise Unavailable("the resident rewriter failed") from error


def ask_resident(engine: Engine, model: LanguageModel) -> Callable[[str], float]:
    """The loaded model's judgement of a prompt; blocks for a few milliseconds of the device, 30 s at most."""

    def ask(prompt: str) -> float:
        answer = engine.interleave(model.unsafe_score(prompt))
        try:
            return answer.result(JUDGE_S)
        finally:
            answer.cancel()

    return ask


def wait_for(answer: Future[T], cancelled: Callable[[], bool]) -> T:
    """The answer; once `cancelled`, it is stopped at its next word and Unavailable is raised."""
    while True:
        try:
            return answer.result(POLL_S)
        except TimeoutError:
            if answer.done():  # the answer itself is this error
                raise
            if cancelled() and answer.cancel():
                raise Unavailable("the edit was stopped") from None
