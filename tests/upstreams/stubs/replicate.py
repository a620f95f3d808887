"""Replicate: predictions, their list, files, and the secret of webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from datetime import UTC, datetime
from typing import Any

from tests.upstreams.stubs.server import Says, Seen, StubJob, StubProvider

_ONE = re.compile(r"/v1/predictions/(?P<id>[^/]+)(?P<what>/cancel)?")
_WORDS = {
    "queued": "starting",
    "running": "processing",
    "done": "succeeded",
    "cancelled": "canceled",
    "aborted": "aborted",
}
SECRET = b"a secret for webhooks"


class ReplicateStub(StubProvider):
    def station(self, method: str, path: str) -> str:
        if path == "/v1/webhooks/default/secret":
            return "keys"
        if path == "/v1/files":
            return "upload"
        if path == "/v1/predictions" and method == "GET":
            return "history"
        found = _ONE.fullmatch(path)
        return "submit" if found is None else "cancel" if found["what"] else "poll"

    def answer(self, request: Seen) -> Says:
        match request.station:
            case "keys":
                return Says.json(200, {"key": f"whsec_{base64.b64encode(SECRET).decode()}"})
            case "upload":
                return Says.json(201, {"id": "f", "urls": {"get": f"{self.url}/v1/files/{len(self.seen)}"}})
            case "history":
                results = [self._prediction(job, peek=True) for job in reversed(self.jobs.values())]
                return Says.json(200, {"results": results, "next": None, "previous": None})
            case "submit":
                job = self.new_job(request.json["input"], webhook=request.json.get("webhook"))
                return Says.json(201, self._prediction(job, peek=True))
        found = _ONE.fullmatch(request.path)
        assert found is not None
        known = self.jobs.get(found["id"])
        if known is None:
            return Says.json(404, {"detail": "Not found."})
        if request.station == "cancel":
            ends = "aborted" if known.state == "queued" else "cancelled"
            if ends == "cancelled":
                self.results_of(known)
            known.plan.clear()
            known.plan.append(ends)
        return Says.json(200, self._prediction(known))

    def webhook(self, job: StubJob, *, age_s: float = 0) -> tuple[dict[str, str], bytes]:
        body = json.dumps(self._prediction(job, peek=True)).encode()
        moment = str(int(time.time() - age_s))
        signed = hmac.new(SECRET, f"msg_1.{moment}.".encode() + body, hashlib.sha256).digest()
        signature = f"v1,AAAA v1,{base64.b64encode(signed).decode()}"
        return {"webhook-id": "msg_1", "webhook-timestamp": moment, "webhook-signature": signature}, body

    def _prediction(self, job: StubJob, *, peek: bool = False) -> dict[str, Any]:
        state = job.state if peek else job.step()
        output = self.results_of(job) if state == "done" else None
        return {
            "id": job.id,
            "status": _WORDS[state],
            "input": job.input,
            "output": output,
            "error": None,
            "logs": "seed\nstep" if state != "queued" else "",
            "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "metrics": {"predict_time": 1.5},
        }
