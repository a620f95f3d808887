"""Wake-ups among the processes of one PostgreSQL database, by LISTEN and NOTIFY.

One connection and one thread per process listen for all subscriptions, and come back when the server does.
Notifications are sent after a change is committed, on a connection of their own: inside the transaction they
would make all commits of the database wait for each other.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import psycopg

_CHANNEL = "retouch"
_LOOK_S = 5.0
"""How often the listener looks whether it should stop; closing also wakes it at once."""

_LONGEST_PAUSE_S = 5.0


class PostgresWakeUps:
    """Wake-ups through the database at `url`. Nothing is connected before the first use."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._publishing = threading.Lock()
        self._publisher: psycopg.Connection[Any] | None = None
        self._lock = threading.Lock()
        self._subscriptions: set[PostgresSubscription] = set()
        self._listener: threading.Thread | None = None
        self._listening = threading.Event()
        self._closed = threading.Event()

    def publish(self, topic: str) -> None:
        """Wake every process. After a restart of the server the first try fails, hence the second."""
        with self._publishing:
            if not self._try_to_publish(topic):
                self._try_to_publish(topic)

    def subscribe(self, topics: Sequence[str]) -> PostgresSubscription:
        """Listen from now on; waits a moment until the server has acknowledged it."""
        subscription = PostgresSubscription(self, topics)
        with self._lock:
            self._subscriptions.add(subscription)
            if self._listener is None:
                self._listener = threading.Thread(target=self._listen_for_ever, name="wakeups", daemon=True)
                self._listener.start()
        self._listening.wait(timeout=_LONGEST_PAUSE_S)
        return subscription

    def close(self) -> None:
        self._closed.set()
        if self._listener is not None:
            self.publish("")
            self._listener.join(timeout=_LOOK_S + 1)
        with self._publishing:
            self._drop_publisher()

    def leave(self, subscription: PostgresSubscription) -> None:
        """Stop waking this subscription."""
        with self._lock:
            self._subscriptions.discard(subscription)

    def _try_to_publish(self, topic: str) -> bool:
        try:
            if self._publisher is None:
                self._publisher = self._connect()
            self._publisher.execute("SELECT pg_notify(%s, %s)", (_CHANNEL, topic))
        except psycopg.Error:
            self._drop_publisher()
            return False
        return True

    def _drop_publisher(self) -> None:
        if self._publisher is not None:
            with contextlib.suppress(psycopg.Error):
                self._publisher.close()
            self._publisher = None

    def _listen_for_ever(self) -> None:
        pause_s = 0.1
        while not self._closed.is_set():
            try:
                with self._connect() as connection:
                    connection.execute(f"LISTEN {_CHANNEL}")
                    self._listening.set()
                    pause_s = 0.1
                    self._wake(None)  # for whatever was sent while this did not listen
                    while not self._closed.is_set():
                        for notification in connection.notifies(timeout=_LOOK_S):
                            if self._closed.is_set():
                                return
                            self._wake(notification.payload)
            except psycopg.Error:
                self._closed.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _wake(self, topic: str | None) -> None:
        with self._lock:
            for subscription in self._subscriptions:
                if topic is None or topic in subscription.topics:
                    subscription.wake()

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=5,
            application_name="retouch wake-ups",
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
        )


class PostgresSubscription:
    """The waiting end of PostgresWakeUps."""

    def __init__(self, owner: PostgresWakeUps, topics: Sequence[str]) -> None:
        self.topics = frozenset(topics)
        self._owner = owner
        self._woken = threading.Event()
        self._closed = False

    def wait(self, timeout_s: float) -> bool:
        if self._closed:
            return False
        woken = self._woken.wait(timeout_s)
        self._woken.clear()
        return woken and not self._closed

    def close(self) -> None:
        self._owner.leave(self)
        self._closed = True
        self._woken.set()

    def wake(self) -> None:
        self._woken.set()
