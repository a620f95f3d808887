"""What the guard models' answers mean, and what happens to an answer that means nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch.engine.prompt_safety import (
    LLAMA_CATEGORIES,
    QWEN_CATEGORIES,
    Judgement,
    PromptChecker,
    ResidentClassifier,
    read_llama_guard,
    read_qwen_guard,
)
from retouch.errors import InvalidRequest, SafetyUnavailable


@pytest.mark.parametrize(
    ("answer", "flagged", "category"),
    [
        ("Safety: Safe\nCategories: None", False, None),
        ("Safety: Safe", False, None),
        ("Safety: Unsafe\nCategories: Sexual Content or Sexual Acts", True, "sexual"),
        ("Safety: Unsafe\nCategories: PII, Suicide & Self-Harm\n", True, "self-harm"),
        ("\nSafety: Unsafe\n\nCategories: Violent\nRefusal: Yes", True, "violence"),
        ("Safety: Unsafe\nCategories: Copyright Violation, Jailbreak", False, None),
        ("Safety: Unsafe\nCategories: Politically Sensitive Topics", False, None),
        ("Safety: Controversial\nCategories: Violent", False, None),
    ],
)
def test_an_answer_of_qwen3guard_is_read(answer: str, flagged: bool, category: str | None) -> None:
    judgement = read_qwen_guard(answer)
    assert (judgement.flagged, judgement.category) == (flagged, category)


@pytest.mark.parametrize(
    "answer",
    ["", "safe", "Safety: safe", "Safety: Safe or not", "I think Safety: Safe", "Safety: Unsafe", "Safety: Unsafe\nViolent", "Safety: Unsafe\nCategories: Bad"],
)  # fmt: skip
def test_anything_else_is_no_judgement_of_qwen3guard(answer: str) -> None:
    with pytest.raises(ValueError, match=r"line|category"):
        read_qwen_guard(answer)


@pytest.mark.parametrize(
    ("answer", "flagged", "category"),
    [
        ("safe", False, None),
        ("\n\nsafe\n", False, None),
        ("unsafe\nS12", True, "sexual"),
        ("\n\nunsafe\nS5,S11", True, "self-harm"),
        ("unsafe\nS8", False, None),
    ],
)
def test_an_answer_of_llama_guard_is_read(answer: str, flagged: bool, category: str | None) -> None:
    judgement = read_llama_guard(answer)
    assert (judgement.flagged, judgement.category) == (flagged, category)


@pytest.mark.parametrize("answer", ["", "Safe", "unsafe", "unsafe\nS15", "unsafe\nS1\nS2", "not safe", "safe\nS1"])
def test_anything_else_is_no_judgement_of_llama_guard(answer: str) -> None:
    with pytest.raises(ValueError, match=r"answer|category"):
        read_llama_guard(answer)


@given(st.text())
def test_no_text_is_read_as_safe_by_mistake(answer: str) -> None:
    for read, opening in ((read_qwen_guard, "Safety: "), (read_llama_guard, ("safe", "unsafe"))):
        try:
            read(answer)
        except ValueError:
            continue
        assert answer.strip().startswith(opening)


@given(
    st.lists(st.sampled_from(sorted(QWEN_CATEGORIES)), min_size=1),
    st.lists(st.sampled_from(sorted(LLAMA_CATEGORIES)), min_size=1),
)
def test_an_unsafe_prompt_is_refused_exactly_when_a_category_matters(qwen: list[str], llama: list[str]) -> None:
    assert read_qwen_guard(f"Safety: Unsafe\nCategories: {', '.join(qwen)}").flagged == any(
        QWEN_CATEGORIES[c] for c in qwen
    )
    assert read_llama_guard(f"unsafe\n{','.join(llama)}").flagged == any(LLAMA_CATEGORIES[c] for c in llama)


@dataclass
class Scripted:
    answer: Judgement | Exception
    name: str = "scripted"
    prompts: list[str] = field(default_factory=list)

    def judge(self, prompt: str) -> Judgement:
        self.prompts.append(prompt)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_prompt_is_judged_once_and_counted_each_time() -> None:
    counts: list[str] = []
    guard = Scripted(Judgement(flagged=True, category="sexual"))
    checker = PromptChecker(guard, counted=lambda verdict, _: counts.append(verdict))
    assert [checker.check("a").flagged, checker.check("a").flagged] == [True, True]
    assert (guard.prompts, counts) == (["a"], ["flagged", "flagged"])


def test_garbage_is_a_failed_check_and_is_asked_again() -> None:
    counts: list[str] = []
    guard = Scripted(ValueError("the first line is nonsense"))
    checker = PromptChecker(guard, counted=lambda verdict, _: counts.append(verdict))
    for _ in range(2):
        with pytest.raises(SafetyUnavailable):
            checker.check("a")
    assert (guard.prompts, counts) == (["a", "a"], ["failed", "failed"])


def test_a_prompt_the_model_cannot_take_stays_the_callers_error() -> None:
    with pytest.raises(InvalidRequest):
        PromptChecker(Scripted(InvalidRequest("too long", field="prompt"))).check("a")


def test_the_resident_model_is_asked_against_its_threshold() -> None:
    assert ResidentClassifier(lambda _: 0.5).judge("a").flagged
    assert not ResidentClassifier(lambda _: 0.49).judge("a").flagged
    assert ResidentClassifier(lambda _: 0.2, threshold=0.1).judge("a").flagged
    with pytest.raises(ValueError, match="nan"):
        ResidentClassifier(lambda _: float("nan")).judge("a")
