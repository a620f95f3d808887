"""Who is next in a queue, and how many are before you: fair tags and exact positions.

A waiting job has a place (priority, fair tag, sequence); places are compared in that order, are unique, and
never change, so claiming is the first row of an index and a position is the number of smaller places.

*Fair tags.* Start-time fair queueing, written at submit. Every (queue, priority) has a clock: the tag of the
job started last. A job's tag is the clock or its account's next tag, whichever is later, and moves the
account's next tag on by cost / weight. So accounts take turns however much one of them has queued, an account
of weight 2 has two turns, and idle time is not saved up. A cancelled job's turn is given back.

*Positions.* Counting the smaller places costs as much as there are. So the line of a queue is cut into blocks,
ranges of places with a maintained count of at most BLOCK_SIZE waiting jobs: a position is the sum over the
blocks before, plus a count inside one block. A block that grows too long is cut in two at its median;
neighbours that have run low are joined (`tidy`). Whatever order jobs arrive and leave in, a position costs at
most one block and one short row per block: some 2,000 rows of each at a million waiting jobs.

*Why this is exact while others write.* A count changes in the transaction that changes the job, and it is the
last row of the line a transaction locks, so no two wait for each other. A block carries both its bounds: who
waited while it was cut finds the place outside of it, or finds no block, and looks again. Who cuts holds the
block's row, so every count that reached it is committed and visible, and none can follow until it is done.

State, leases and attempts are not known here.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Integer,
    Select,
    String,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    update,
)

from retouch.database import insert_into
from retouch.jobs.tables import fair_clock, fair_share, job, queue_block

BLOCK_SIZE = 1024
"""Most waiting jobs of a block. The square root of a million: beyond it, sum and count grow apart."""

TURN = 1_000_000
"""Length of one image's turn for an account of weight 1, in units of the fair tag."""

QUEUED: ColumnElement[bool] = job.c.state == literal_column("'queued'")
"""Written out and not bound, since only then can the databases use the index of waiting jobs."""


class Place(NamedTuple):
    """Where a job stands in its queue; smaller runs first. Unique by its sequence."""

    priority: int
    fair_tag: int
    sequence: int


_Limit: TypeAlias = Place | tuple[BindParameter[int], BindParameter[int], BindParameter[int]]
"""A place, or one that is given when a statement runs."""

FIRST = Place(-(2**31), 0, 0)
LAST = Place(2**31 - 1, 2**62, 2**62)


def _bound(prefix: str = "") -> tuple[BindParameter[int], BindParameter[int], BindParameter[int]]:
    """A place that is given when a statement runs."""
    types = (Integer(), BigInteger(), BigInteger())
    priority, tag, sequence = (
        bindparam(prefix + name, type_=type_) for name, type_ in zip(Place._fields, types, strict=True)
    )
    return priority, tag, sequence


_here = tuple_(*_bound())
_PLACE = (job.c.priority, job.c.fair_tag, job.c.sequence)
_block_lower = tuple_(queue_block.c.lower_priority, queue_block.c.lower_tag, queue_block.c.lower_sequence)
_block_upper = tuple_(queue_block.c.upper_priority, queue_block.c.upper_tag, queue_block.c.upper_sequence)


def cost_of(images: int, weight: int) -> int:
    """How far a job of so many images moves an account of that weight; at least 1."""
    return max(1, images * TURN // weight)


def take_turn(connection: Connection, queue: str, priority: int, account_id: str, cost: int) -> int:
    """The fair tag of the account's next job, which counts as waiting from now on."""
    clock = select(fair_clock.c.tag).where(fair_clock.c.queue == queue, fair_clock.c.priority == priority)
    values = {"queue": queue, "priority": priority, "account_id": account_id, "waiting": 1}
    row = insert_into(connection, fair_share).values(
        **values, next_tag=func.coalesce(clock.scalar_subquery(), 0) + cost
    )
    earliest, own = row.excluded.next_tag, fair_share.c.next_tag + cost
    row = row.on_conflict_do_update(
        index_elements=["queue", "priority", "account_id"],
        set_={"next_tag": case((own > earliest, own), else_=earliest), "waiting": fair_share.c.waiting + 1},
    )
    next_tag: int = connection.execute(row.returning(fair_share.c.next_tag)).scalar_one()
    return next_tag - cost


def account_waiting(connection: Connection, account_id: str) -> int:
    """How many jobs of an account wait, in all queues."""
    query = select(func.coalesce(func.sum(fair_share.c.waiting), 0)).where(fair_share.c.account_id == account_id)
    return int(connection.execute(query).scalar_one())


def join(connection: Connection, queue: str, place: Place) -> None:
    """Count a job that has just become queued at `place`; its row is already written."""
    _add(connection, queue, place, 1)


def start(connection: Connection, queue: str, place: Place, account_id: str) -> None:
    """The job at `place` leaves the line because it starts: the clock moves to its tag."""
    _leave_share(connection, queue, place, account_id)
    clock = insert_into(connection, fair_clock).values(queue=queue, priority=place.priority, tag=place.fair_tag)
    connection.execute(
        clock.on_conflict_do_update(
            index_elements=["queue", "priority"],
            set_={"tag": clock.excluded.tag},
            where=fair_clock.c.tag < clock.excluded.tag,
        )
    )
    _add(connection, queue, place, -1)


def come_back(connection: Connection, queue: str, place: Place, account_id: str) -> None:
    """A job that was started waits again, at its old place; its row is already written."""
    own = {"queue": queue, "priority": place.priority, "account_id": account_id}
    share = insert_into(connection, fair_share).values(**own, next_tag=place.fair_tag, waiting=1)
    connection.execute(  # the share may have been forgotten while the account had nothing waiting
        share.on_conflict_do_update(index_elements=list(own), set_={"waiting": fair_share.c.waiting + 1})
    )
    _add(connection, queue, place, 1)


def give_up(connection: Connection, queue: str, place: Place, account_id: str, cost: int) -> None:
    """The job at `place` leaves the line without having run: its turn is given back."""
    _leave_share(connection, queue, place, account_id, cost=cost)
    _add(connection, queue, place, -1)


def position(connection: Connection, queue: str, place: Place) -> int:
    """How many waiting jobs of the queue have a smaller place. All of `connection` must see one moment."""
    row = connection.execute(_OWN, {"of_queue": queue, **place._asdict()}).one_or_none()
    if row is None:
        return 0
    lower = _Block.of(row).lower
    count = _BEFORE[lower[:2] == place[:2]]
    given = {f"from_{name}": value for name, value in lower._asdict().items()}
    return int(connection.execute(count, {"of_queue": queue, **place._asdict(), **given}).scalar_one())


def length(connection: Connection, queue: str) -> int:
    """How many jobs wait in the queue."""
    query = select(func.coalesce(func.sum(queue_block.c.waiting), 0)).where(queue_block.c.queue == queue)
    return int(connection.execute(query).scalar_one())


def untidy(connection: Connection) -> tuple[str, ...]:
    """The queues that have blocks to be joined."""
    low = select(queue_block.c.queue).where(queue_block.c.waiting <= BLOCK_SIZE // 4)
    return tuple(connection.execute(low.group_by(queue_block.c.queue).having(func.count() > 1)).scalars())


def tidy(connection: Connection, queue: str, *, most: int = 100) -> int:
    """Join neighbouring blocks that together are at most half full; returns how many went.

    Blocks are locked from the front to the back, and a transaction that holds a single one waits for no other lock of
    the line, so this cannot deadlock.
    """
    gone = 0
    kept: _Block | None = None
    for row in connection.execute(_BLOCKS.with_for_update(), {"of_queue": queue}).all():
        block = _Block.of(row)
        # A block that was cut while we waited for it has a new neighbour that this reading does not show.
        if kept is None or kept.upper != block.lower or gone >= most or kept.waiting + block.waiting > BLOCK_SIZE // 2:
            kept = block
            continue
        kept = _Block(kept.id, kept.lower, block.upper, kept.waiting + block.waiting)
        connection.execute(delete(queue_block).where(queue_block.c.id == block.id))
        _write(connection, kept)
        gone += 1
    return gone


def forget_idle_shares(connection: Connection) -> None:
    """Drop the shares of accounts that the clock has caught up with: a new share would say the same."""
    clock = select(fair_clock.c.tag).where(
        fair_clock.c.queue == fair_share.c.queue, fair_clock.c.priority == fair_share.c.priority
    )
    idle = (
        select(fair_share.c.queue, fair_share.c.priority, fair_share.c.account_id)
        .where(fair_share.c.waiting == 0, fair_share.c.next_tag <= clock.scalar_subquery())
        .with_for_update(skip_locked=True)  # one that is in use is not idle
    )
    own = tuple_(fair_share.c.queue, fair_share.c.priority, fair_share.c.account_id)
    connection.execute(delete(fair_share).where(own.in_(idle)))


class _Block(NamedTuple):
    id: int
    lower: Place
    upper: Place
    waiting: int

    @classmethod
    def of(cls, row: Any) -> _Block:
        return cls(row[0], Place(*row[1:4]), Place(*row[4:7]), row[7])


def _add(connection: Connection, queue: str, place: Place, jobs: int) -> None:
    parameters = {"of_queue": queue, "jobs": jobs, **place._asdict()}
    while (row := connection.execute(_ADD, parameters).one_or_none()) is None:
        # No block holds the place: this is the first job of its queue, or another transaction cut or joined the
        # block while this one waited for its row; the bounds it has now lead to the right one.
        if connection.execute(_BLOCKS.limit(1), {"of_queue": queue}).first() is None:
            line = insert_into(connection, queue_block).values(
                queue=queue, waiting=0, **lower_bound(FIRST), **upper_bound(LAST)
            )
            connection.execute(line.on_conflict_do_nothing())
    block = _Block.of(row)
    if block.waiting > BLOCK_SIZE:
        _cut(connection, queue, block)


def _cut(connection: Connection, queue: str, block: _Block) -> None:
    """Cut a block whose row this transaction has just written, and therefore holds, at its median."""
    places = [
        Place(*row)
        for part in _waiting_between(queue, block.lower, block.upper, one_turn=block.lower[:2] == block.upper[:2])
        for row in connection.execute(select(*_PLACE).where(*part).order_by(*_PLACE))
    ]
    # Every change of the count is a change of a job in the same transaction, and this one holds the block's row: what
    # is read here is what was counted, and both halves stay exact.
    assert len(places) == block.waiting
    # At the median of the jobs and not of the range: new jobs gather at one end, and half a range may be empty.
    front = len(places) // 2
    # The front half keeps the row. A writer waiting for it then finds its place outside and looks again; one that
    # looked before the cut can reach the back half only through that row.
    _write(connection, block._replace(upper=places[front], waiting=front))
    rest = {"waiting": len(places) - front, **lower_bound(places[front]), **upper_bound(block.upper)}
    connection.execute(insert(queue_block).values(queue=queue, **rest))


def _waiting_between(
    queue: str | BindParameter[str], lower: _Limit, upper: _Limit, *, one_turn: bool
) -> list[tuple[ColumnElement[bool], ...]]:
    """Conditions for the waiting jobs from `lower` on and before `upper`: parts in order, without overlap.

    one_turn: whether both limits have the same priority and tag.

    In parts, because SQLite searches an index by a comparison of rows only up to the row's number, which
    `sequence` is: as one comparison, a thousand jobs with equal tags would all be looked at.
    """
    waiting = (job.c.queue == queue, QUEUED)
    turn = tuple_(job.c.priority, job.c.fair_tag)
    sequence = job.c.sequence
    first = (*waiting, job.c.priority == lower[0], job.c.fair_tag == lower[1], sequence >= lower[2])
    if one_turn:
        return [(*first, sequence < upper[2])]
    last = (*waiting, job.c.priority == upper[0], job.c.fair_tag == upper[1], sequence < upper[2])
    return [first, (*waiting, turn > tuple_(*lower[:2]), turn < tuple_(*upper[:2])), last]


def _write(connection: Connection, block: _Block) -> None:
    changed = update(queue_block).where(queue_block.c.id == block.id)
    connection.execute(changed.values(waiting=block.waiting, **upper_bound(block.upper)))


def _leave_share(connection: Connection, queue: str, place: Place, account_id: str, *, cost: int = 0) -> None:
    own = {"of_queue": queue, "of_priority": place.priority, "of_account": account_id}
    connection.execute(_LEAVE_SHARE, {**own, "cost": cost})


_LEAVE_SHARE = (
    update(fair_share)
    .where(
        fair_share.c.queue == bindparam("of_queue"),
        fair_share.c.priority == bindparam("of_priority"),
        fair_share.c.account_id == bindparam("of_account"),
    )
    .values(waiting=fair_share.c.waiting - 1, next_tag=fair_share.c.next_tag - bindparam("cost", type_=BigInteger))
)


def lower_bound(place: Place) -> dict[str, int]:
    return dict(zip(("lower_priority", "lower_tag", "lower_sequence"), place, strict=True))


def upper_bound(place: Place) -> dict[str, int]:
    return dict(zip(("upper_priority", "upper_tag", "upper_sequence"), place, strict=True))


_BLOCK_COLUMNS = (
    queue_block.c.id,
    queue_block.c.lower_priority,
    queue_block.c.lower_tag,
    queue_block.c.lower_sequence,
    queue_block.c.upper_priority,
    queue_block.c.upper_tag,
    queue_block.c.upper_sequence,
    queue_block.c.waiting,
)

_BLOCKS = (
    select(*_BLOCK_COLUMNS)
    .where(queue_block.c.queue == bindparam("of_queue"))
    .order_by(queue_block.c.lower_priority, queue_block.c.lower_tag, queue_block.c.lower_sequence)
)

_OWN = (  # the last block that begins at or before a place: the one that holds it
    select(*_BLOCK_COLUMNS)
    .where(queue_block.c.queue == bindparam("of_queue"), _block_lower <= _here)
    .order_by(queue_block.c.lower_priority.desc(), queue_block.c.lower_tag.desc(), queue_block.c.lower_sequence.desc())
    .limit(1)
)

_ADD = (  # no row comes back when the block was cut or joined while this waited for it
    update(queue_block)
    .where(queue_block.c.id == select(_OWN.subquery("own").c.id).scalar_subquery(), _here < _block_upper)
    .values(waiting=queue_block.c.waiting + bindparam("jobs", type_=Integer))
    .returning(*_BLOCK_COLUMNS)
)


def _before(*, one_turn: bool) -> Select[Any]:
    """Counts the smaller places: whole blocks by their counts, and the part of the own block from `from_…` on.

    Made once: fifty callers who poll ask for five hundred positions a second, and putting the statement
    together takes several times as long as running it.
    """
    queue = bindparam("of_queue", type_=String())
    blocks = select(func.coalesce(func.sum(queue_block.c.waiting), 0)).where(
        queue_block.c.queue == queue, _block_lower < tuple_(*_bound("from_"))
    )
    parts = _waiting_between(queue, _bound("from_"), _bound(), one_turn=one_turn)
    counts = (select(func.count()).where(*part).scalar_subquery() for part in parts)
    return select(sum(counts, blocks.scalar_subquery()))


_BEFORE = {one_turn: _before(one_turn=one_turn) for one_turn in (True, False)}
