"""What the safety checkers mean for one job: refused, black, not checked, or nothing at all.

Prompts and inputs are judged before the device hears of the job, outputs and previews before anything is encoded or
stored. Scores go to the operator's log only; what a caller learns is the stage and a general category. Which classifier
judges is `engine/safety.py`'s and `engine/prompt_safety.py`'s matter.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal

from retouch.catalog import Checks, checks_of
from retouch.edit import EditRequest, Notice
from retouch.engine.prompt_safety import PromptChecker
from retouch.engine.safety import ImageChecker, Stage
from retouch.errors import ContentRefused, SafetyUnavailable
from retouch.images import Pixels

logger = logging.getLogger(__name__)  # the standard one: `retouch edit` sets up no other

SWITCH = "enable_safety_checker"

NOT_CHECKED = Notice(SWITCH, "ignored", "Not checked: the safety checker failed.")
ENFORCED = Notice(SWITCH, "converted", "This server checks every edit; the safety checker stayed on.")


class SafetyTally:
    """How often each check ended how, and the seconds of all together, since the start; safe from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._checks: Counter[str] = Counter()
        self._seconds = 0.0

    def count(self, stage: Stage, verdict: str, seconds: float) -> None:
        """verdict: passed, flagged or failed."""
        with self._lock:
            self._checks[f"{stage} {verdict}"] += 1
            self._seconds += seconds

    @property
    def checks(self) -> Mapping[str, int]:
        """By `stage verdict`."""
        with self._lock:
            return dict(self._checks)

    @property
    def seconds(self) -> float:
        return self._seconds


@dataclass(frozen=True, slots=True)
class Moderation:
    """The operator's choice. images, prompts: None where nothing checks them.

    failure: what a checker that fails means, `refuse` (the job fails, and may be tried again) or `pass` (delivered, and
    reported as not checked). enforce: callers may not switch the checks off.
    """

    images: ImageChecker | None = None
    prompts: PromptChecker | None = None
    failure: Literal["refuse", "pass"] = "refuse"
    enforce: bool = False
    tally: SafetyTally = field(default_factory=SafetyTally)

    def applies_to(self, request: EditRequest) -> bool:
        return request.enable_safety_checker or self.enforce

    def notices(self, request: EditRequest) -> tuple[Notice, ...]:
        """What is to be said of the caller's switch."""
        checked = self.images is not None or self.prompts is not None
        return (ENFORCED,) if self.enforce and checked and not request.enable_safety_checker else ()

    def check_prompt(self, request: EditRequest, prompt: str, *, job: str) -> tuple[Notice, ...]:
        """Raises ContentRefused, SafetyUnavailable when a failure refuses, InvalidRequest for an unreadable prompt."""
        if self.prompts is None or not self.applies_to(request):
            return ()
        try:
            judgement = self.prompts.check(prompt)
        except SafetyUnavailable as error:
            self._tolerate(error, job, "prompt")
            return (NOT_CHECKED,)
        if not judgement.flagged:
            return ()
        logger.info("the safety checker refused the prompt of %s (%s)", job, judgement.detail)
        raise ContentRefused(
            "The prompt was refused by the safety checker.",
            field="prompt",
            stage="prompt",
            category=judgement.category,
        )

    def check_inputs(self, request: EditRequest, images: Sequence[Pixels], *, job: str) -> tuple[Notice, ...]:
        """Raises ContentRefused that names the first flagged image's field, or SafetyUnavailable."""
        if checks_of(request.model) is Checks.OUTPUT or not self.applies_to(request):
            return ()
        for index, (source, image) in enumerate(zip(request.images, images, strict=True), start=1):
            flagged = self._flagged(image, "input", job, f"image {index} of {len(images)}")
            if flagged is None and self.images is not None:
                return (NOT_CHECKED,)
            if flagged:
                raise ContentRefused(
                    f"The image in '{source.field}' was refused by the safety checker.",
                    field=source.field,
                    stage="input",
                    category=self._category,
                )
        return ()

    def check_outputs(
        self, request: EditRequest, images: Sequence[Pixels], *, job: str
    ) -> tuple[list[bool | None], tuple[Notice, ...]]:
        """For each finished image whether it is flagged, None where it was not checked.

        Raises ContentRefused when every image is flagged and the model's callers are to get an error for that, and
        SafetyUnavailable when a failure refuses.
        """
        if self.images is None or not self.applies_to(request):
            return [None] * len(images), ()
        count = len(images)
        flags = [self._flagged(image, "output", job, f"image {n} of {count}") for n, image in enumerate(images, 1)]
        refused = [number for number, flag in enumerate(flags, start=1) if flag]
        if len(refused) == count and checks_of(request.model) is not Checks.OUTPUT:
            raise ContentRefused(
                f"{'Every image' if count > 1 else 'The image'} of this edit was refused by the safety checker.",
                stage="output",
                category=self._category,
            )
        notices = [NOT_CHECKED] if None in flags else []
        if refused:
            shown = ", ".join(map(str, refused))
            detail = f"The safety checker refused image {shown} of {count}; it is delivered in black."
            notices.append(Notice(SWITCH, "converted", detail))
        return flags, tuple(notices)

    def allows_preview(self, request: EditRequest, image: Pixels, *, job: str) -> bool:
        """Whether an unfinished image may be shown; one that could not be checked may not."""
        if self.images is None or not self.applies_to(request):
            return True
        try:
            return not self.images.check(image, "preview").flagged
        except SafetyUnavailable:
            logger.warning("a preview of %s is left out: the safety checker failed", job)
            return False

    @property
    def _category(self) -> str | None:
        return None if self.images is None else self.images.category

    def _flagged(self, image: Pixels, stage: Stage, job: str, which: str) -> bool | None:
        """None: not checked, because nothing checks or a failure passes."""
        if self.images is None:
            return None
        try:
            verdict = self.images.check(image, stage)
        except SafetyUnavailable as error:
            self._tolerate(error, job, stage)
            return None
        if verdict.flagged:
            numbers = round(verdict.score, 4), self.images.threshold
            logger.info("the safety checker refused %s, %s of %s (score %g, threshold %g)", which, stage, job, *numbers)
        return verdict.flagged

    def _tolerate(self, error: SafetyUnavailable, job: str, stage: Stage) -> None:
        """Raise the error again where a failure refuses."""
        logger.warning("the safety checker failed on the %s of %s; the setting is: %s", stage, job, self.failure)
        if self.failure == "refuse":
            raise error


UNMODERATED = Moderation()
