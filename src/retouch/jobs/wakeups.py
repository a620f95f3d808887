"""Wake-ups between processes: publish a topic, subscribe to topics, wait.

They only save latency. A wake-up may be lost or come twice; every waiter looks at the database after every
wait, also when the time ran out, so a job never depends on one. No data travels.

Topics: `queue:<name>` (a job became ready to lease) and `job` (something about a job changed).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import selectors
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from retouch.database import Database

JOB_TOPIC = "job"
CANCEL_TOPIC = "cancel"
"""The owner of a running job wants it cancelled; workers listen to this rather than to every change of a job."""

_LONGEST_FOLDER = 72
"""The kernel takes socket paths of at most 104 bytes (107 on Linux); topic and number need the rest."""


def queue_topic(queue: str) -> str:
    return f"queue:{queue}"


class Subscription(Protocol):
    """Topics one thread listens to. A wake-up between two waits is kept for the second."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for a wake-up at most `timeout_s`; True when one came."""

    def close(self) -> None:
        """Stop listening; a wait that is under way returns soon. Closing twice is no error."""


class WakeUps(Protocol):
    """Thread-safe. Nothing here raises when a wake-up cannot be delivered."""

    def publish(self, topic: str) -> None: ...

    def subscribe(self, topics: Sequence[str]) -> Subscription: ...

    def close(self) -> None: ...


def open_wakeups(database: Database, data_dir: Path) -> WakeUps:
    """The wake-ups that reach every process of this database."""
    if database.dialect == "postgresql":
        from retouch.jobs.notify import PostgresWakeUps  # the driver is loaded only when used

        return PostgresWakeUps(database.url.set(drivername="postgresql").render_as_string(hide_password=False))
    return LocalWakeUps(data_dir)


class LocalWakeUps:
    """Wake-ups among the processes of one machine, by Unix datagram sockets in the data folder.

    Every subscription has a socket per topic, in a folder per topic, so a full socket can only mean that a
    wake-up is waiting there already. The kernel refuses what is sent to a dead process' socket; the sender
    then removes it. Where such sockets cannot be made, waiting is polling: it lasts its whole time.
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.resolve() / "wakeups"
        if len(os.fsencode(self._folder)) > _LONGEST_FOLDER:  # then by its name in the temporary folder
            digest = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]
            self._folder = Path(tempfile.gettempdir()) / f"retouch-{os.getuid()}-{digest}"
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.settimeout(0)
        self._numbers = itertools.count()

    def publish(self, topic: str) -> None:
        folder = self._folder / _folder_name(topic)
        with contextlib.suppress(OSError):  # there is no subscription, or sockets cannot be made here
            for name in os.listdir(folder):
                try:
                    self._sender.sendto(b"!", str(folder / name))
                except OSError as error:
                    if error.errno == errno.ECONNREFUSED:  # bound by a process that is gone
                        (folder / name).unlink(missing_ok=True)

    def subscribe(self, topics: Sequence[str]) -> LocalSubscription:
        name = f"{os.getpid()}-{next(self._numbers)}"
        return LocalSubscription([self._folder / _folder_name(topic) / name for topic in topics])

    def close(self) -> None:
        self._sender.close()


class LocalSubscription:
    """The waiting end of LocalWakeUps. One thread waits; any may close."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths: list[Path] = []
        self._selector = selectors.DefaultSelector()
        self._closing, closed = socket.socketpair()
        self._stopped = self._waiting = False
        self._lock = threading.Lock()
        self._selector.register(closed, selectors.EVENT_READ)
        for path in paths:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.unlink(missing_ok=True)  # of a dead process that had our number
                listener.bind(str(path))
            except OSError:
                listener.close()
                continue
            listener.settimeout(0)
            self._paths.append(path)
            self._selector.register(listener, selectors.EVENT_READ, data=listener)

    def wait(self, timeout_s: float) -> bool:
        with self._lock:
            if self._stopped:
                return False
            self._waiting = True
        try:
            listeners = [key.data for key, _ in self._selector.select(timeout_s) if key.data is not None]
            for listener in listeners:
                with contextlib.suppress(BlockingIOError):
                    while listener.recv(16):
                        pass
            return bool(listeners)
        finally:
            self._end_wait()

    def close(self) -> None:
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            for path in self._paths:
                path.unlink(missing_ok=True)
            self._closing.close()  # ends a wait in another thread, which then frees the rest
            if not self._waiting:
                self._free()

    def _end_wait(self) -> None:
        with self._lock:
            self._waiting = False
            if self._stopped:  # closed meanwhile, which left this to us
                self._free()

    def _free(self) -> None:
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


def _folder_name(topic: str) -> str:
    return hashlib.sha256(topic.encode()).hexdigest()[:12]
