"""Worker processes that die and stall at random over one database: every job is done once and billed once."""

from __future__ import annotations

import multiprocessing.connection
import os
import random
from multiprocessing.process import BaseProcess
from pathlib import Path

from sqlalchemy import select

from retouch.accounts.tables import usage_entry
from retouch.errors import LeaseLost
from retouch.jobs.job import Job, JobState, Lease
from retouch.jobs.tables import job_event
from retouch.service import ServiceSettings
from tests.harness import ANNE, BEN, OUTPUT, USAGE, Deployment
from tests.waiting import until

JOBS = 100
WORKERS = 4
LEASE_S = 1.0
DIES, STALLS = 0.06, 0.08
LONG_S = 120.0
SETTINGS = ServiceSettings(max_attempts=1000, run_timeout_s=1000)


def open_world(url: str, folder: Path) -> Deployment:
    return Deployment(folder, url, model="demo", settings=SETTINGS)


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
            until(lambda lease=lease: is_replaced(world.job(lease.job.id), lease), within_s=LONG_S)
        try:
            world.service.progress(lease, step=1, steps=4)
            world.service.finish(lease, OUTPUT, USAGE)
        except LeaseLost:
            continue


def is_replaced(now: Job, lease: Lease) -> bool:
    return now.state is not JobState.RUNNING or now.attempt != lease.job.attempt


def start(url: str, folder: Path, seed: int) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=work, args=(url, folder, seed), daemon=True)
    process.start()
    return process


def test_every_job_is_done_once_whatever_its_workers_do(database_url: str, tmp_path: Path) -> None:
    world = open_world(database_url, tmp_path)
    submitted = [world.submit(account).id for account in (ANNE, BEN) for _ in range(JOBS // 2)]
    workers = [start(database_url, tmp_path, seed) for seed in range(WORKERS)]
    deaths = requeued = 0

    def all_have_ended() -> bool:
        nonlocal deaths, requeued
        requeued += world.service.sweep().requeued
        multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=0.1)
        for place, worker in enumerate(workers):
            if worker.exitcode is not None:
                deaths += 1
                assert worker.exitcode == 9
                workers[place] = start(database_url, tmp_path, WORKERS + deaths)
        return all(world.service.have_ended(submitted).values())

    until(all_have_ended, within_s=LONG_S)
    for worker in workers:
        worker.kill()
        worker.join()
    assert {world.job(job_id).state for job_id in submitted} == {JobState.SUCCEEDED}
    with world.database.read() as connection:
        billed = sorted(connection.execute(select(usage_entry.c.job_id)).scalars())
        states = select(job_event.c.job_id, job_event.c.data).where(job_event.c.kind == "state")
        finished = sorted(row.job_id for row in connection.execute(states) if row.data["state"] == "succeeded")
    assert billed == finished == sorted(submitted)
    assert deaths + requeued > 0
    world.check_the_line()
    world.close()
