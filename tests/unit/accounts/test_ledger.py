"""The ledger: whole micro-dollars, one entry per job, sums by model."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from retouch.accounts import ledger as ledger_module
from retouch.accounts.keys import Keys
from retouch.accounts.ledger import OTHERS, KeyUsage, Ledger, UsageEntry, record
from retouch.database import Database
from retouch.edit import Usage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ENTRY = UsageEntry("job-1", "anne", "key_1", "qwen-image-edit", Usage(2, 2_000_000, 16, 900, 40_000), NOON)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    entries = (
        ENTRY,
        replace(ENTRY, job_id="job-2", created_at=NOON + timedelta(hours=1)),
        replace(ENTRY, job_id="job-3", model="qwen-image-2", usage=Usage(1, 5, 3, 2**40, 2**50)),
        replace(ENTRY, job_id="job-4", account_id="ben"),
    )
    with database.transaction() as connection:
        for entry in entries:
            record(connection, entry)
    return Ledger(database)


def test_entries_read_back_newest_first(ledger: Ledger) -> None:
    assert [entry.job_id for entry in ledger.entries("anne")] == ["job-3", "job-2", "job-1"]
    assert ledger.entries("anne")[-1] == ENTRY
    assert len(ledger.entries("anne", limit=1)) == 1


def test_a_job_is_billed_once(ledger: Ledger, database: Database) -> None:
    with pytest.raises(IntegrityError), database.transaction() as connection:
        record(connection, ENTRY)
    assert len(ledger.entries("anne")) == 3


def test_the_report_sums_by_model_without_rounding(ledger: Ledger) -> None:
    by_model = {line.model: line for line in ledger.report("anne")}
    assert by_model["qwen-image-edit"].jobs == 2
    assert by_model["qwen-image-edit"].usage == Usage(4, 4_000_000, 32, 1800, 80_000)
    assert by_model["qwen-image-2"].usage.price_microusd == 2**50
    assert ledger.report("nobody") == ()


def test_a_report_can_be_of_a_time(ledger: Ledger) -> None:
    (later,) = ledger.report("anne", since=NOON + timedelta(minutes=1))
    assert later.jobs == 1
    assert sum(line.jobs for line in ledger.report("anne", until=NOON)) == 0


def test_what_each_key_has_used_is_under_its_name(ledger: Ledger, database: Database) -> None:
    account = Keys(database).verify(Keys(database).create("studio"))
    with database.transaction() as connection:
        record(connection, replace(ENTRY, job_id="job-5", account_id=account.id))
    by_name = {line.name: line for line in ledger.by_key()}
    assert set(by_name) == {"anne", "ben", "studio"}, "an account without a key of its own has its id"
    assert by_name["anne"] == KeyUsage("anne", 3, 5, 2 * 900 + 2**40, 2 * 40_000 + 2**50)
    assert by_name["studio"].jobs == 1


def test_no_more_names_than_a_collector_can_bear_and_no_sum_ever_falls(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MAX_NAMES", 2)
    keys = Keys(database)
    accounts = [keys.verify(keys.create(name)) for name in ("a", "b", "c", "d")]
    before: dict[str, int] = {}
    for number, account in enumerate([*accounts[::-1], *accounts]):
        with database.transaction() as connection:
            record(connection, replace(ENTRY, job_id=f"job-{number}", account_id=account.id))
        now = {line.name: line.jobs for line in Ledger(database).by_key()}
        assert sum(now.values()) == number + 1
        if number >= len(accounts):
            assert all(now[name] >= jobs for name, jobs in before.items())
            assert set(now) == {"a", "b", OTHERS}
        before = now
