"""Who is next in a queue, and how much is before you: fair tags, head starts and exact positions.

A waiting job has a place (priority, fair tag, sequence); places are compared in that order, are unique, and
never change, so claiming is the first row of an index and a position is the number of smaller places.

*Fair tags.* Start-time fair queueing in predicted device time, written at submit. Every (queue, priority) has a clock,
and every account there two flows, its quick jobs and the others. A job is quick that costs at most three quarters of
what jobs of the line cost on average (U). Its tag is the clock or its flow's next tag, whichever is later, and moves
the flow's next tag on by cost / weight. So accounts share the device's time however much one of them has queued, an
account of weight 2 has two shares, and idle time is not saved up. Jobs that are not quick may lie ALLOWANCE U behind
their flow, so that a burst is not punished at once. A cancelled job's share is given back.

*Head starts.* From the tag of a quick job up to HEAD_START U are taken off, the more the shorter it is: a short job
does not wait behind long ones that were there before, and a long one waits for a bounded amount of later short ones. A
start moves the clock to the job's tag, and at least by a DRIFT-th of its cost, because the tags of quick jobs lie
behind the clock. All of it counts predicted time, none of it the time of day. Where the constants come from:
`docs/decisions/0009-the-order-of-edits.md`, and of three quarters in
`docs/decisions/0014-head-starts-up-to-three-quarters.md`.

*Positions.* Counting the smaller places costs as much as there are. So the line of a queue is cut into blocks,
ranges of places with a maintained count of at most BLOCK_SIZE waiting jobs, and the sum of their costs: a position is
the sum over the blocks before, plus a count inside one block. A block that grows too long is cut in two at its
median; neighbours that have run low are joined (`tidy`). Whatever order jobs arrive and leave in, a position costs at
most one block and one short row per block: some 2,000 rows of each at a million waiting jobs.

*Why this is exact while others write.* A count changes in the transaction that changes the job, and it is the
last row of the line a transaction locks, so no two wait for each other. A block carries both its bounds: who
waited while it was cut finds the place outside of it, or finds no block, and looks again. Who cuts holds the
block's row, so every count that reached it is committed and visible, and none can follow until it is done.

State, leases and attempts are not known here.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Executable,
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
    union_all,
    update,
)

from retouch.database import insert_into, insert_of
from retouch.jobs.tables import fair_clock, fair_share, job, queue_block

BLOCK_SIZE = 1024
"""Most waiting jobs of a block. The square root of a million: beyond it, sum and count grow apart."""

SECOND = 1_000_000
"""Of device time, in units of the fair tag and of costs."""

HEAD_START, ALLOWANCE, DRIFT = 10, 10, 16
"""In mean costs, the first two; found by simulation, and little depends on them within a factor of two."""

COST_BITS = 6

REMEMBERED = 255
"""Started jobs that the mean cost forgets half of, roughly, after as many more."""

QUEUED: ColumnElement[bool] = job.c.state == literal_column("'queued'")
"""Written out and not bound, since only then can the databases use the index of waiting jobs."""


class Place(NamedTuple):
    """Where a job stands in its queue; smaller runs first. Unique by its sequence."""

    priority: int
    fair_tag: int
    sequence: int


class Turn(NamedTuple):
    """A job's place, and what it takes: `cost` of the device, `share` of its account's flow; both in fair tags."""

    account_id: str
    place: Place
    cost: int
    share: int
    quick: bool


class Ahead(NamedTuple):
    """What waits before a place."""

    jobs: int
    cost: int


_Limit: TypeAlias = Place | tuple[BindParameter[int], BindParameter[int], BindParameter[int]]
"""A place, or one that is given when a statement runs."""

FIRST = Place(-(2**31), -(2**62), 0)
LAST = Place(2**31 - 1, 2**62, 2**62)


def _bound(prefix: str = "") -> tuple[BindParameter[int], BindParameter[int], BindParameter[int]]:
    """A place that is given when a statement runs."""
    types = (Integer(), BigInteger(), BigInteger())
    priority, tag, sequence = (
        bindparam(prefix + name, type_=type_) for name, type_ in zip(Place._fields, types, strict=True)
    )
    return priority, tag, sequence


PLACE = (job.c.priority, job.c.fair_tag, job.c.sequence)
"""The columns of a job's `Place`, in whose order a line is served."""

_FLOW = (fair_share.c.queue, fair_share.c.priority, fair_share.c.account_id, fair_share.c.quick)
_here = tuple_(*_bound())
_LOWER = (queue_block.c.lower_priority, queue_block.c.lower_tag, queue_block.c.lower_sequence)
_UPPER = (queue_block.c.upper_priority, queue_block.c.upper_tag, queue_block.c.upper_sequence)


class Share(NamedTuple):
    """What `take_turn` decides; the place is complete once the job's row has its sequence."""

    fair_tag: int
    cost: int
    share: int
    quick: bool


def cost_of(seconds: float) -> int:
    """Predicted device seconds as a cost; at least 1.

    To COST_BITS binary digits, about 3 %: jobs that differ in the length of their words only are equals, which start
    in the order of submission.
    """
    cost = max(1, round(seconds * SECOND))
    shift = max(0, cost.bit_length() - COST_BITS)
    return (cost >> shift) << shift


def take_turn(  # noqa: PLR0917 - the flow, and what the job is
    connection: Connection, queue: str, priority: int, account_id: str, cost: int, weight: int, typical: int
) -> Share:
    """Where the account's next job stands, which counts as waiting from now on.

    typical: what a job of this queue costs, as long as none was started there.
    """
    row = connection.execute(_CLOCK, {"of_queue": queue, "of_priority": priority}).one_or_none()
    clock, mean_of_started, started = row or (0, 0, 0)
    mean = max(1, (started * mean_of_started + typical) // (started + 1))
    quick_up_to = max(1, mean * 3 // 4)
    quick, share = cost <= quick_up_to, max(1, cost // weight)
    flow = {"queue": queue, "priority": priority, "account_id": account_id, "quick": quick}
    new = {**flow, "next_tag": clock + share, "waiting": 1, "of_share": share}
    tag = connection.execute(_take_share(connection.dialect.name), new).scalar_one() - share
    if quick:
        tag -= HEAD_START * mean * (quick_up_to - cost) // quick_up_to
    else:
        tag = max(clock, tag - ALLOWANCE * mean)
    return Share(tag, cost, share, quick)


@cache
def _take_share(dialect: str) -> Executable:
    """A job more waits in its flow, whose next tag moves on by `of_share`: from where it is, or from the clock."""
    new = insert_of(dialect, fair_share)
    earliest, own = new.excluded.next_tag, fair_share.c.next_tag + bindparam("of_share", type_=BigInteger)
    return new.on_conflict_do_update(
        index_elements=_FLOW,
        set_={"next_tag": case((own > earliest, own), else_=earliest), "waiting": fair_share.c.waiting + 1},
    ).returning(fair_share.c.next_tag)


_CLOCK = select(fair_clock.c.tag, fair_clock.c.mean_cost, fair_clock.c.started).where(
    fair_clock.c.queue == bindparam("of_queue"), fair_clock.c.priority == bindparam("of_priority")
)


def account_waiting(connection: Connection, account_id: str) -> int:
    """How many jobs of an account wait, in all queues."""
    return int(connection.execute(_ACCOUNT_WAITING, {"of_account": account_id}).scalar_one())


_ACCOUNT_WAITING = select(func.coalesce(func.sum(fair_share.c.waiting), 0)).where(
    fair_share.c.account_id == bindparam("of_account")
)


def join(connection: Connection, queue: str, turn: Turn) -> None:
    """Count a job that has just become queued; its row is already written."""
    _add(connection, queue, turn, 1)


def start(connection: Connection, queue: str, turn: Turn) -> None:
    """The job leaves the line because it starts: the clock moves on, and its cost counts in the mean."""
    _leave_share(connection, queue, turn)
    place, drift = turn.place, turn.cost // DRIFT
    first = {"queue": queue, "priority": place.priority, "tag": max(drift, place.fair_tag), "mean_cost": turn.cost}
    of = {"of_tag": place.fair_tag, "of_drift": drift, "of_cost": turn.cost}
    connection.execute(_move_clock(connection.dialect.name), {**first, "started": 1, **of})
    _add(connection, queue, turn, -1)


@cache
def _move_clock(dialect: str) -> Executable:
    """A job of cost `of_cost` starts at `of_tag`."""
    tag, drift, cost = (bindparam(name, type_=BigInteger) for name in ("of_tag", "of_drift", "of_cost"))
    drifted, mean, started = fair_clock.c.tag + drift, fair_clock.c.mean_cost, fair_clock.c.started
    return insert_of(dialect, fair_clock).on_conflict_do_update(
        index_elements=[fair_clock.c.queue, fair_clock.c.priority],
        set_={
            "tag": case((drifted > tag, drifted), else_=tag),
            "mean_cost": mean + (cost - mean) // (started + 1),
            "started": case((started < REMEMBERED, started + 1), else_=started),
        },
    )


def come_back(connection: Connection, queue: str, turn: Turn) -> None:
    """A job that was started waits again, at its old place; its row is already written."""
    flow = _flow(queue, turn)
    share = insert_into(connection, fair_share).values(**flow, next_tag=turn.place.fair_tag, waiting=1)
    connection.execute(  # the share may have been forgotten while the account had nothing waiting
        share.on_conflict_do_update(index_elements=list(flow), set_={"waiting": fair_share.c.waiting + 1})
    )
    _add(connection, queue, turn, 1)


def give_up(connection: Connection, queue: str, turn: Turn) -> None:
    """The job leaves the line without having run: its share is given back."""
    _leave_share(connection, queue, turn, given_back=turn.share)
    _add(connection, queue, turn, -1)


def ahead(connection: Connection, queue: str, place: Place) -> Ahead:
    """The waiting jobs of the queue with a smaller place. All of `connection` must see one moment."""
    row = connection.execute(_OWN, {"of_queue": queue, **place._asdict()}).one_or_none()
    if row is None:
        return Ahead(0, 0)
    lower = _Block.of(row).lower
    count = _BEFORE[lower[:2] == place[:2]]
    given = {f"from_{name}": value for name, value in lower._asdict().items()}
    jobs, cost = connection.execute(count, {"of_queue": queue, **place._asdict(), **given}).one()
    return Ahead(int(jobs), int(cost))


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
        kept = _Block(kept.id, kept.lower, block.upper, kept.waiting + block.waiting, kept.cost + block.cost)
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
        select(*_FLOW)
        .where(fair_share.c.waiting == 0, fair_share.c.next_tag <= clock.scalar_subquery())
        .with_for_update(skip_locked=True)  # one that is in use is not idle
    )
    connection.execute(delete(fair_share).where(tuple_(*_FLOW).in_(idle)))


class _Block(NamedTuple):
    id: int
    lower: Place
    upper: Place
    waiting: int
    cost: int

    @classmethod
    def of(cls, row: Any) -> _Block:
        return cls(row[0], Place(*row[1:4]), Place(*row[4:7]), row[7], row[8])


def _add(connection: Connection, queue: str, turn: Turn, jobs: int) -> None:
    parameters = {"of_queue": queue, "jobs": jobs, "cost": jobs * turn.cost, **turn.place._asdict()}
    while (row := connection.execute(_ADD, parameters).one_or_none()) is None:
        # No block holds the place: this is the first job of its queue, or another transaction cut or joined the
        # block while this one waited for its row; the bounds it has now lead to the right one.
        if connection.execute(_BLOCKS.limit(1), {"of_queue": queue}).first() is None:
            line = insert_into(connection, queue_block).values(
                queue=queue, waiting=0, cost=0, **_block_limit("lower", FIRST), **_block_limit("upper", LAST)
            )
            connection.execute(line.on_conflict_do_nothing())
    block = _Block.of(row)
    if block.waiting > BLOCK_SIZE:
        # At once, while this transaction holds the row and nothing else can be counted in it.
        _cut(connection, queue, block)


def _cut(connection: Connection, queue: str, block: _Block) -> None:
    """Cut a block whose row this transaction has just written, and therefore holds, at its median."""
    rows = [
        row
        for part in _waiting_between(queue, block.lower, block.upper, one_turn=block.lower[:2] == block.upper[:2])
        for row in connection.execute(select(*PLACE, job.c.cost).where(*part).order_by(*PLACE))
    ]
    # Every change of the count is a change of a job in the same transaction, and this one holds the block's row: what
    # is read here is what was counted, and both halves stay exact.
    assert len(rows) == block.waiting
    # At the median of the jobs and not of the range: new jobs gather at one end, and half a range may be empty.
    front = len(rows) // 2
    cut, cost = Place(*rows[front][:3]), sum(row.cost for row in rows[:front])
    # The front half keeps the row. A writer waiting for it then finds its place outside and looks again; one that
    # looked before the cut can reach the back half only through that row.
    _write(connection, block._replace(upper=cut, waiting=front, cost=cost))
    rest = {
        "waiting": len(rows) - front,
        "cost": block.cost - cost,
        **_block_limit("lower", cut),
        **_block_limit("upper", block.upper),
    }
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
    connection.execute(changed.values(waiting=block.waiting, cost=block.cost, **_block_limit("upper", block.upper)))


def _flow(queue: str, turn: Turn) -> dict[str, Any]:
    """The row of `fair_share` a job belongs to."""
    return {"queue": queue, "priority": turn.place.priority, "account_id": turn.account_id, "quick": turn.quick}


def _leave_share(connection: Connection, queue: str, turn: Turn, *, given_back: int = 0) -> None:
    of = {f"of_{name}": value for name, value in _flow(queue, turn).items()}
    connection.execute(_LEAVE_SHARE, {**of, "cost": given_back})


_LEAVE_SHARE = (
    update(fair_share)
    .where(
        fair_share.c.queue == bindparam("of_queue"),
        fair_share.c.priority == bindparam("of_priority"),
        fair_share.c.account_id == bindparam("of_account_id"),
        fair_share.c.quick == bindparam("of_quick"),
    )
    .values(waiting=fair_share.c.waiting - 1, next_tag=fair_share.c.next_tag - bindparam("cost", type_=BigInteger))
)


def _block_limit(name: str, place: Place) -> dict[str, int]:
    """name: lower or upper."""
    return {f"{name}_priority": place.priority, f"{name}_tag": place.fair_tag, f"{name}_sequence": place.sequence}


_BLOCK = (queue_block.c.id, *_LOWER, *_UPPER, queue_block.c.waiting, queue_block.c.cost)
_BLOCKS = select(*_BLOCK).where(queue_block.c.queue == bindparam("of_queue")).order_by(*_LOWER)

_OWN = (  # the last block that begins at or before a place: the one that holds it
    select(*_BLOCK)
    .where(queue_block.c.queue == bindparam("of_queue"), tuple_(*_LOWER) <= _here)
    .order_by(*(each.desc() for each in _LOWER))
    .limit(1)
)

_ADD = (  # no row comes back when the block was cut or joined while this waited for it
    update(queue_block)
    .where(queue_block.c.id == select(_OWN.subquery("own").c.id).scalar_subquery(), _here < tuple_(*_UPPER))
    .values(
        waiting=queue_block.c.waiting + bindparam("jobs", type_=Integer),
        cost=queue_block.c.cost + bindparam("cost", type_=BigInteger),
    )
    .returning(*_BLOCK)
)


def _before(*, one_turn: bool) -> Select[Any]:
    """Counts the smaller places and their costs: whole blocks, and the part of the own block from `from_…` on.

    Made once: fifty callers who poll ask for five hundred positions a second, and putting the statement
    together takes several times as long as running it.
    """
    queue = bindparam("of_queue", type_=String())
    blocks = select(func.sum(queue_block.c.waiting).label("jobs"), func.sum(queue_block.c.cost).label("cost")).where(
        queue_block.c.queue == queue, tuple_(*_LOWER) < tuple_(*_bound("from_"))
    )
    parts = _waiting_between(queue, _bound("from_"), _bound(), one_turn=one_turn)
    counts = (select(func.count(), func.sum(job.c.cost)).where(*part) for part in parts)
    all_of = union_all(blocks, *counts).subquery()
    return select(func.coalesce(func.sum(all_of.c.jobs), 0), func.coalesce(func.sum(all_of.c.cost), 0))


_BEFORE = {one_turn: _before(one_turn=one_turn) for one_turn in (True, False)}
