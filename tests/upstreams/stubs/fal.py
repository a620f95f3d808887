"""fal: the queue, the history, the store of uploads and the keys of webhooks, below one path each."""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import Any

from retouch.accounts.signing import Signer
from tests.upstreams.stubs.server import Says, Seen, StubJob, StubProvider

_REQUEST = re.compile(r"/queue/(?P<app>[^/]+/[^/]+)/requests/(?P<id>[^/]+)(?P<what>/status|/cancel)?")


class FalStub(StubProvider):
    base = "/queue"

    def __init__(self, root: str = "") -> None:
        super().__init__()
        self.root = root  #: "/fal" where it plays another Retouch
        self.signer = Signer(bytes(32))
        self.lists_history = True

    def station(self, method: str, path: str) -> str:
        path = path.removeprefix("/fal")
        if path.startswith("/api/"):
            return "history"
        if path.startswith("/rest/storage"):
            return "upload"
        if path.startswith("/rest/.well-known"):
            return "keys"
        found = _REQUEST.fullmatch(path)
        if found is None:
            return "submit"
        return {"/status": "poll", "/cancel": "cancel", None: "result"}[found["what"]]

    def answer(self, request: Seen) -> Says:
        match request.station:
            case "submit":
                endpoint = request.path.partition("/queue/")[2]
                job = self.new_job({**request.json, "__endpoint__": endpoint}, webhook=request.query.get("fal_webhook"))
                job.images = request.json.get("num_images", 1)
                return Says.json(200, self._envelope(job), x_fal_request_id=job.id)
            case "history":
                return self._history(request)
            case "upload":
                name = f"upload-{len(self.files)}"
                link = f"{self.url}/results/{name}"
                return Says.json(200, {"upload_url": link, "file_url": link})
            case "keys":
                return Says.json(200, self.signer.key_set)
        found = _REQUEST.fullmatch(request.path.removeprefix("/fal"))
        assert found is not None
        job_or_none = self.jobs.get(found["id"])
        if job_or_none is None:
            return Says.json(404, {"status": "NOT_FOUND"})
        return {"poll": self._status, "result": self._result, "cancel": self._cancel}[request.station](job_or_none)

    def webhook(self, job: StubJob, *, age_s: float = 0) -> tuple[dict[str, str], bytes]:
        """Headers and body of the webhook about a job, signed."""
        body = json.dumps({"request_id": job.id, "status": "OK", "payload": {}}).encode()
        moment = str(int(time.time() - age_s))
        signed = "\n".join((job.id, "user", moment, hashlib.sha256(body).hexdigest())).encode()
        return {
            "X-Fal-Webhook-Request-Id": job.id,
            "X-Fal-Webhook-User-Id": "user",
            "X-Fal-Webhook-Timestamp": moment,
            "X-Fal-Webhook-Signature": self.signer.sign(signed).hex(),
        }, body

    def _envelope(self, job: StubJob) -> dict[str, Any]:
        app = "/".join(str(job.input["__endpoint__"]).split("/")[:2])
        place = f"{self.url}{self.root}/queue/{app}/requests/{job.id}"
        return {
            "request_id": job.id,
            "response_url": place,
            "status_url": f"{place}/status",
            "cancel_url": f"{place}/cancel",
            "queue_position": 0,
        }

    def _status(self, job: StubJob) -> Says:
        state = job.step()
        envelope = {**self._envelope(job), "logs": []}
        if state == "queued":
            return Says.json(202, {**envelope, "status": "IN_QUEUE"})
        if state == "running":
            log = {"message": "Step 1 of 2", "level": "INFO", "source": "USER", "timestamp": "2026-01-01T00:00:00Z"}
            return Says.json(202, {**envelope, "status": "IN_PROGRESS", "logs": [log]})
        return Says.json(200, {**envelope, "status": "COMPLETED"})

    def _result(self, job: StubJob) -> Says:
        if job.state in ("queued", "running"):
            return Says.json(400, {"detail": "Request is still in progress"})
        if job.state in ("cancelled", "aborted"):
            return Says.json(499, {"detail": "Request cancelled by the client.", "error_type": "client_cancelled"})
        images = [{"url": link, "content_type": "image/png"} for link in self.results_of(job)]
        answer = {"images": images, "seed": job.input.get("seed"), "has_nsfw_concepts": [False] * len(images)}
        return Says.json(200, {**answer, "prompt": "p", "timings": {"inference": 0.5}}, x_fal_billable_units="1")

    def _cancel(self, job: StubJob) -> Says:
        if job.state == "done":
            return Says.json(400, {"status": "ALREADY_COMPLETED"})
        job.plan.clear()
        job.plan.append("cancelled")
        return Says.json(202, {"status": "CANCELLATION_REQUESTED"})

    def _history(self, request: Seen) -> Says:
        wanted = request.query["endpoint_id"]
        items = [
            {
                "request_id": job.id,
                "endpoint_id": wanted,
                "json_input": {k: v for k, v in job.input.items() if k[0] != "_"},
            }
            for job in reversed(self.jobs.values())
            if self.lists_history and job.input["__endpoint__"] == wanted
        ]
        return Says.json(200, {"items": items, "has_more": False, "next_cursor": None})
