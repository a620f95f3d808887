"""A thousand hosted edits with faults at every station: what is booked is what the providers' own bills say."""

from __future__ import annotations

import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from retouch.edit import SizeRequest
from retouch.jobs.attempts import AttemptState
from retouch.jobs.job import JobState
from retouch.upstreams.routes import GatewaySettings
from tests.upstreams.gateway_world import GatewayWorld
from tests.upstreams.stubs.server import Behaviour, Closes, Cut, Reset, Says
from tests.waiting import until

JOBS = {"sqlite": 1000, "postgresql": 250}
SIDE = 64
SUBMIT_FAULTS: tuple[Behaviour, ...] = (
    Reset(at=0.3),
    Closes(),
    Closes(works=False),
    Cut(),
    Says(429, b"{}", {"Retry-After": "0"}),
    Says(500, b'{"error":{"message":"broken"},"detail":"broken"}'),
    Says(502, b"<html>bad gateway</html>"),
)
POLL_FAULTS: tuple[Behaviour, ...] = (Says(500, b"{}"), Says(200, b"no json"), Closes(), Cut())
DOWNLOAD_FAULTS: tuple[Behaviour, ...] = (Says(404), Says(200, b"<html>"), Cut())


class Seeded:
    """In place of a stub's script: a fault or none for each request, from one seed."""

    def __init__(self, seed: int, faults: tuple[Behaviour, ...], share: float) -> None:
        self._random = random.Random(seed)
        self._faults = faults
        self._share = share

    def __bool__(self) -> bool:
        return True

    def popleft(self) -> Behaviour | None:
        return self._random.choice(self._faults) if self._random.random() < self._share else None


def an_image() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), "teal").save(file, "png", compress_level=1)
    return file.getvalue()


def bills_by_seed(world: GatewayWorld) -> Counter[int]:
    bills: Counter[int] = Counter()
    for each in world.providers.values():
        for job_id, charge in each.stub.bill.items():
            given: Any = each.stub.jobs[job_id].input
            bills[int(given["seed"])] += charge
    return bills


def test_the_ledger_equals_the_providers_bills_but_for_what_is_marked_unknown(
    database_url: str, tmp_path: Path
) -> None:
    count = JOBS[database_url.partition(":")[0]]
    # A submit that never arrived is looked for until the deadline, in one of the 32 places: not longer than edits need.
    settings = GatewaySettings(deadline_s=20.0, max_in_flight=32)
    world = GatewayWorld(tmp_path, database_url, "fal", "lumenfall", settings=settings, rule={"policy": "weighted"})
    for number, each in enumerate(world.providers.values()):
        each.stub.image = an_image()
        each.stub._scripts["submit"] = Seeded(number, SUBMIT_FAULTS, 0.2)  # type: ignore[assignment]
        each.stub._scripts["poll"] = Seeded(10 + number, POLL_FAULTS, 0.1)  # type: ignore[assignment]
        each.stub._scripts["download"] = Seeded(20 + number, DOWNLOAD_FAULTS, 0.05)  # type: ignore[assignment]
    image = world.upload()
    size = SizeRequest(width=SIDE, height=SIDE, words=f"{SIDE}x{SIDE}")
    with world.gateway() as gateway:
        jobs = [world.edit(seed=seed, images=(image,), size=size) for seed in range(count)]
        ids = [job.id for job in jobs]
        until(lambda: gateway.busy == 0 and all(world.service.have_ended(ids).values()), within_s=250)
    ended = {job.request.seed: world.job(job.id) for job in jobs}
    rows = {seed: world.attempts(job.id) for seed, job in ended.items()}
    bills = bills_by_seed(world)
    for seed, attempts in rows.items():
        booked = sum(each.charge_microusd or 0 for each in attempts)
        unknown = any(each.state is AttemptState.UNKNOWN for each in attempts)
        assert all(each.settled_at is not None for each in attempts)
        assert booked == bills[seed] or (unknown and booked < bills[seed]), (
            [(each.target, each.state, each.cause, each.detail, each.charge_microusd) for each in attempts],
            bills[seed],
        )
        if ended[seed].state is JobState.SUCCEEDED:
            usage = ended[seed].usage
            assert usage is not None
            done = [each.charge_microusd or 0 for each in attempts if each.state is AttemptState.DONE]
            assert usage.price_microusd in done
    states = Counter(job.state for job in ended.values())
    codes = Counter(job.failure.code for job in ended.values() if job.failure is not None)
    assert states[JobState.SUCCEEDED] > 0.8 * count, codes
    assert sum(states.values()) == count
    lost = {"upstream_outcome_unknown", "upstream_result_lost", "upstream_bad_image", "all_providers_exhausted"}
    assert set(codes) <= lost
    booked_in_all = sum(charge for _, _, _, charge in world.service.hosted().attempts)
    assert booked_in_all <= sum(bills.values())
    world.close()
