"""`retouch worker`: builds a worker for each of its models, all on one device, and runs them until it is stopped.

The exit code tells `serve` whether starting it again can help.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from retouch.catalog import Catalog, Checkpoint, checkpoints_named
from retouch.cli.database import open_database
from retouch.cli.loras import fast_lora_file, lora_finder, with_fast_lora
from retouch.cli.policy import check_rewriter, check_safety, job_policy, speaks
from retouch.cli.process import bound_kernel_cache, keep_freed_memory, set_up_logging, worker_name
from retouch.engine.cost import CostLearner
from retouch.engine.device_errors import DeviceLost
from retouch.engine.engine import Engine
from retouch.engine.pipeline import Pipeline
from retouch.engine.pipelines import load_pipeline, share_device
from retouch.engine.warm_up import warm_up
from retouch.errors import InvalidSetting, RetouchError, Unavailable
from retouch.jobs.wakeups import open_wakeups
from retouch.server.supervisor import EXIT_FATAL
from retouch.service import Service, ServiceSettings
from retouch.settings import (
    LoraSettings,
    ModelSettings,
    NetworkSettings,
    ProcessSettings,
    ProvenanceSettings,
    RewriterSettings,
    SafetySettings,
    StoreSettings,
)
from retouch.storage.caller_bucket import CallerBuckets
from retouch.storage.fetch import Fetcher
from retouch.storage.open import open_blobs
from retouch.worker.priority import prefer_short_turns
from retouch.worker.settings import WorkerSettings
from retouch.worker.staging import input_reader
from retouch.worker.worker import SharedDevice, Worker

logger = structlog.get_logger(__name__)

KEPT_MEGABYTES = 256
"""Enough to decode and encode a few large images at a time."""


def work(  # noqa: PLR0917 - one settings class for each component
    store: StoreSettings,
    model: ModelSettings,
    loras: LoraSettings,
    network: NetworkSettings,
    processes: ProcessSettings,
    safety: SafetySettings,
    rewriter: RewriterSettings,
    provenance: ProvenanceSettings,
    *,
    attached: bool,
) -> None:
    """Run until SIGTERM, an interrupt, or, when `attached`, the end of standard input. Does not return."""
    set_up_logging(processes.log_level)
    keep_freed_memory(KEPT_MEGABYTES)
    prefer_short_turns()
    bound_kernel_cache()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if attached:
        threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
    code = 0
    try:
        run_worker(store, model, loras, network, safety, rewriter, provenance, stop)
    except DeviceLost:  # logged, with its jobs, where it happened
        code = 1
    except Unavailable as error:
        sys.stderr.write(f"retouch: {error.message}\n")
        code = 1
    except RetouchError as error:
        sys.stderr.write(f"retouch: {error.message}\n")
        code = EXIT_FATAL if attached else 1
    sys.stderr.flush()
    # A device may be inside a step that takes minutes; everything else has ended, so it is not waited for.
    os._exit(code)


def run_worker(  # noqa: PLR0917 - one settings class for each component
    store: StoreSettings,
    model: ModelSettings,
    loras: LoraSettings,
    network: NetworkSettings,
    safety: SafetySettings,
    rewriter: RewriterSettings,
    provenance: ProvenanceSettings,
    stop: threading.Event,
) -> None:
    """Build a worker for each model and run them until `stop`. Raises RetouchError when none can be loaded."""
    named = checkpoints_named(model.model, accept_research_licence=model.accept_research_licence)
    checkpoints = with_fast_lora(named, loras)
    catalog = Catalog.serving(*checkpoints)
    for checkpoint in checkpoints:
        check_safety(safety, checkpoint)
        check_rewriter(rewriter, checkpoint)

    wanted = [speaks(safety, rewriter, checkpoint, model.device) for checkpoint in checkpoints]
    swaps, ways = False, ((model.precision, model.offload),) * len(checkpoints)
    if len(checkpoints) > 1:
        swaps, ways = share_device(
            checkpoints, device=model.device, precision=model.precision, offload=model.offload, speaks=wanted
        )
        if swaps:
            logger.info("the weights of these models take turns on the device", models=[c.name for c in checkpoints])

    def load(index: int) -> Pipeline:
        precision, offload = ways[index]
        return load_pipeline(
            checkpoints[index],
            device=model.device,
            speaks=wanted[index],
            precision=precision,
            offload=offload,
            compiled=model.compile,
            fast_lora=fast_lora_file(checkpoints[index], store, network),
        )

    with contextlib.ExitStack() as stack:
        database = stack.enter_context(open_database(store))
        blobs = open_blobs(store.storage, store.data)
        wakeups = open_wakeups(database, store.data)
        stack.callback(wakeups.close)
        service = Service(database, blobs, catalog, wakeups, ServiceSettings(retention_s=store.retention_s))
        find_lora = lora_finder(store, loras, network, blobs).find
        shared, name = SharedDevice(len(checkpoints), swaps=swaps), worker_name()
        workers = [
            Worker(
                name if len(checkpoints) == 1 else f"{name}-{checkpoint.name}",
                service=service,
                blobs=blobs,
                wakeups=wakeups,
                read=input_reader(blobs, Fetcher(network.allow_private).fetch),
                find_lora=find_lora,
                load=partial(load, index),
                policy=partial(job_policy, safety, rewriter, provenance, model.device),
                warm_up=partial(first_edit, checkpoint),
                checkpoint=checkpoint,
                settings=WorkerSettings(output_ttl_s=store.retention_s),
                device=model.device,
                caller_buckets=CallerBuckets(network.allow_private),
                shared=shared,
            )
            for index, checkpoint in enumerate(checkpoints)
        ]
        run_together(workers, stop)


def run_together(workers: Sequence[Worker], stop: threading.Event) -> None:
    """Run each worker in a thread until `stop`, which the end of any of them sets. Raises what they raised."""
    ends: list[BaseException] = []

    def run(worker: Worker) -> None:
        try:
            worker.run(stop)
        except BaseException as error:  # noqa: BLE001 - raised below
            ends.append(error)

    threads = [threading.Thread(target=run, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not ends:
        return
    refusals = dict.fromkeys(error.message for error in ends if isinstance(error, RetouchError))
    if len(refusals) > 1 and len(refusals) == len(workers):
        raise InvalidSetting(" ".join(refusals)) from ends[0]
    raise ends[0]


def first_edit(
    checkpoint: Checkpoint, engine: Engine, pipeline: Pipeline, learner: CostLearner, tell: Callable[[str], None]
) -> None:
    """Warm up at the size of most edits, on a CPU at the smallest one: there it is only a first measurement."""
    sizes = checkpoint.sizes
    area = sizes.min_area if pipeline.device_name == "cpu" else sizes.default_area
    warm_up(engine, checkpoint, learner, area=area, tell=tell)


def _stop_at_end_of_input(stop: threading.Event) -> None:
    """The server holds the other end of our input and never writes: when it ends, so does the server."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stop.set()
