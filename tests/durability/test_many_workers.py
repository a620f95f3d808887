"""Worker processes that die and stall at random over one database: every job is done once and billed once."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from sqlalchemy import select

from retouch.accounts.tables import usage_entry
from retouch.database import Database
from retouch.errors import LeaseLost
from retouch.jobs.job import JobState, utc_now
from retouch.jobs.tables import job_event
from retouch.service import Service, ServiceSettings
from tests.services import ANNE, BEN, OUTPUT, USAGE, World

JOBS = 100
WORKERS = 4
LEASE_S = 1.0
DIES, STALLS = 0.06, 0.08
LONG_S = 120.0
SETTINGS = ServiceSettings(max_attempts=1000, run_timeout_s=1000)


def open_world(url: str, folder: Path) -> World:
    return World(Database(url), folder, SETTINGS, clock=utc_now)  # type: ignore[arg-type]


def work(url: str, folder: Path, seed: int) -> None:
    """A worker process: it dies holding a job, or comes back too late, or does what it should."""
    world, dice = open_world(url, folder), random.Random(seed)
    subscription = world.wakeups.subscribe(["queue:demo"])
    while True:
        lease = world.service.lease(f"w{seed}", ["demo"], LEASE_S)
        if lease is None:
            subscription.wait(0.2)
            continue
        fate = dice.random()
        if fate < DIES:
            os._exit(9)
        if fate < DIES + STALLS:
            wait_until_replaced(world.service, lease.job.id, lease.job.attempt)
        try:
            world.service.progress(lease, step=1, steps=4)
            world.service.finish(lease, OUTPUT, USAGE)
        except LeaseLost:
            continue


def wait_until_replaced(service: Service, job_id: str, attempt: int) -> None:
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        job = service.get_any(job_id)
        if job.attempt != attempt or job.state is not JobState.RUNNING:
            return
        time.sleep(0.02)


def start(url: str, folder: Path, seed: int) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=work, args=(url, folder, seed), daemon=True)
    process.start()
    return process


def test_every_job_is_done_once_whatever_its_workers_do(database_url: str, tmp_path: Path) -> None:
    world = open_world(database_url, tmp_path)
    submitted = [world.submit(account).id for account in (ANNE, BEN) for _ in range(JOBS // 2)]
    workers = [start(database_url, tmp_path, seed) for seed in range(WORKERS)]
    deaths = requeued = 0
    deadline = time.monotonic() + LONG_S
    while not all(world.service.have_ended(submitted).values()):
        assert time.monotonic() < deadline, "not all jobs ended"
        requeued += world.service.sweep().requeued
        for place, worker in enumerate(workers):
            worker.join(0.02)
            if worker.exitcode is not None:
                deaths += 1
                assert worker.exitcode == 9
                workers[place] = start(database_url, tmp_path, WORKERS + deaths)
    for worker in workers:
        worker.kill()
        worker.join()
    assert {world.look(job_id).state for job_id in submitted} == {JobState.SUCCEEDED}
    with world.database.read() as connection:
        billed = sorted(connection.execute(select(usage_entry.c.job_id)).scalars())
        states = select(job_event.c.job_id, job_event.c.data).where(job_event.c.kind == "state")
        finished = sorted(row.job_id for row in connection.execute(states) if row.data["state"] == "succeeded")
    assert billed == finished == sorted(submitted)
    assert deaths + requeued > 0
    world.check_the_line()
    world.close()
    world.database.close()
