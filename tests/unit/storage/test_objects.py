"""Keys carry expiry and media type, and nothing that could lead out of the store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch.errors import UnknownFile
from retouch.storage.objects import FOLDERS, KEY, hour_of, new_key, read_key

moments = st.none() | st.datetimes(datetime(2001, 1, 1), datetime(2100, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)


@given(st.sampled_from(FOLDERS), st.text(max_size=40), st.none() | st.text(max_size=90), moments)
def test_every_key_that_is_made_can_be_read(folder: str, media_type: str, name: str | None, expires_at) -> None:
    key = new_key(folder, media_type, name, expires_at)
    facts = read_key(key)
    assert facts.folder == folder
    if expires_at is None:
        assert facts.expires_at is None
    else:
        assert timedelta(0) <= facts.expires_at - expires_at < timedelta(seconds=1)
        assert key.split("/")[1] == hour_of(facts.expires_at)
    assert key.isascii()
    assert ".." not in key
    assert key.count("/") == 2


@given(st.text())
def test_any_other_text_is_an_unknown_file(text: str) -> None:
    if not KEY.fullmatch(text):
        with pytest.raises(UnknownFile):
            read_key(text)


def test_a_key_expires_at_its_second() -> None:
    moment = datetime(2026, 3, 4, 12, 59, 59, tzinfo=UTC)
    facts = read_key(new_key("outputs", "image/png", None, moment))
    assert not facts.expired(moment - timedelta(microseconds=1))
    assert facts.expired(moment)


def test_the_hour_is_that_of_greenwich() -> None:
    assert hour_of(datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=3)))) == "2025123122"
