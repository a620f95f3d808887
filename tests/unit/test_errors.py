"""The tree of errors: codes are unique and stable, the tree drawn in the docstring is complete."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from retouch import errors
from retouch.errors import Failure, InvalidType, NotOneOf, OutOfRange, RetouchError


def every_error(parent: type[RetouchError] = RetouchError) -> Iterator[type[RetouchError]]:
    for child in parent.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from every_error(child)


def test_every_error_has_a_code_of_its_own():
    codes = [error.code for error in every_error() if error is not errors.InvalidRequest]
    assert len(codes) == len(set(codes))


def test_the_tree_drawn_in_the_docstring_names_every_error():
    assert errors.__doc__ is not None
    missing = [error.__name__ for error in every_error() if error.__name__ not in errors.__doc__]
    assert missing == []


def test_an_out_of_range_error_names_the_value_and_the_limits():
    error = OutOfRange("steps", 500, minimum=1, maximum=100)
    assert error.message == "The field 'steps' must be from 1 to 100, not 500."
    assert error.context == {"ge": 1, "le": 100}


def test_a_long_value_is_cut_before_it_is_repeated():
    error = NotOneOf("output_format", "data:image/png;base64," + "A" * 10_000, ("png", "jpeg"))
    assert len(error.message) < 200


def test_a_value_that_is_nested_too_deeply_to_be_repeated_is_named_by_its_type():
    value: list[object] = []
    for _ in range(5_000):
        value = [value]
    assert InvalidType("prompt", "string", value).message.endswith("must be a valid string, not a deeply nested list.")


@given(
    st.builds(
        Failure,
        code=st.sampled_from(["invalid_value", "worker_lost"]),
        message=st.text(),
        field=st.none() | st.text(),
        context=st.dictionaries(
            st.text(), st.none() | st.integers() | st.text() | st.lists(st.text(), max_size=3).map(tuple), max_size=3
        ),
    )
)
def test_a_failure_survives_the_job_row(failure: Failure):
    assert Failure.from_json(failure.to_json()) == failure


def test_a_number_of_hundreds_of_digits_is_cut_short():
    error = OutOfRange("seed", int(1e300), minimum=0, maximum=2**63 - 1)
    assert "to 9223372036854775807, not 1000" in error.message
    assert len(error.message) < 160
