"""Opens the database of the data folder, with errors that tell an operator what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from retouch.database import Database
from retouch.errors import InvalidSetting
from retouch.migrations import migrate
from retouch.settings import StoreSettings


def make_data_folder(store: StoreSettings) -> None:
    """Make the data folder, for its owner only; raises InvalidSetting when it cannot be written."""
    try:
        store.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = store.data / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidSetting(
            f"The data folder {store.data} cannot be written: {error.strerror}. Choose another with --data."
        ) from None


@contextmanager
def open_database(store: StoreSettings) -> Iterator[Database]:
    """The database with its tables up to date, closed at the end. Raises InvalidSetting, DatabaseUnavailable."""
    make_data_folder(store)
    database = Database(store.database_url)
    try:
        migrate(database)
        yield database
    finally:
        database.close()
