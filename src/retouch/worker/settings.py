"""How much one worker takes on and how often the service hears from it. Where the numbers come from is the caller's."""

from __future__ import annotations

from dataclasses import dataclass, field

from retouch.storage.blobs import DEFAULT_TTL_S


@dataclass(frozen=True, slots=True)
class HeartbeatSettings:
    """Times in seconds.

    lease_s: life of a lease; it is renewed after a third of it. progress_s: least time between two
    progress writes of a job, which is also how long a lost cancel wake-up stays unnoticed.
    preview_s: least time between two previews of a job whose caller wants none. beat_s: between two beats.
    keep_cost_s: least time between two records of what the device was measured at.
    """

    lease_s: float = 15.0
    progress_s: float = 0.25
    preview_s: float = 1.0
    beat_s: float = 3.0
    keep_cost_s: float = 5.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Times in seconds.

    memory_bytes: what running edits may hold together on the device between steps; None leaves it to the device.
    most_leased: jobs at once, whatever they hold, because the host keeps their images. ready_s: the next job is leased
    when what is leased and stands before it lasts less. too_long_s: a job that has not begun goes back when what stands
    before it lasts longer. staging: jobs that are fetched and decoded at once; slow_staging_s: one that takes longer
    does not count as ready. poll_s: look for jobs this often when no wake-up comes. outage_s: how long a finished image
    is offered to a store or database that is away before the job goes back to the queue. stop_s: how long a stop waits
    for images that are being stored. output_ttl_s: life of output files when the request names none.
    """

    memory_bytes: int | None = None
    most_leased: int = 64
    ready_s: float = 2.0
    too_long_s: float = 10.0
    staging: int = 8
    slow_staging_s: float = 1.0
    poll_s: float = 1.0
    outage_s: float = 30.0
    outage_pause_s: float = 2.0
    stop_s: float = 3.0
    output_ttl_s: float = DEFAULT_TTL_S
    heartbeat: HeartbeatSettings = field(default_factory=HeartbeatSettings)
