"""RunPod: run, status, cancel. `cost` is told in each result, as its public endpoints do."""

from __future__ import annotations

import re

from tests.upstreams.stubs.server import PRICE_MICROUSD, Says, Seen, StubProvider

_JOB = re.compile(r"/v2/[^/]+/(?P<what>status|cancel)/(?P<id>[^/]+)")
_WORDS = {"queued": "IN_QUEUE", "running": "IN_PROGRESS", "cancelled": "CANCELLED", "aborted": "TIMED_OUT"}


class RunPodStub(StubProvider):
    base = "/v2"

    def station(self, method: str, path: str) -> str:
        found = _JOB.fullmatch(path)
        return "submit" if found is None else {"status": "poll", "cancel": "cancel"}[found["what"]]

    def answer(self, request: Seen) -> Says:
        if request.station == "submit":
            if not request.path.endswith("/run"):
                return Says.json(404, {"error": "not found"})
            job = self.new_job(request.json["input"], webhook=request.json.get("webhook"))
            return Says.json(200, {"id": job.id, "status": "IN_QUEUE"})
        found = _JOB.fullmatch(request.path)
        assert found is not None
        known = self.jobs.get(found["id"])
        if known is None:
            return Says.json(404, {"error": "job not found"})
        if request.station == "cancel":
            known.plan.clear()
            known.plan.append("cancelled")
            return Says.json(200, {"id": known.id, "status": "CANCELLED"})
        state = known.step()
        if state != "done":
            return Says.json(200, {"id": known.id, "status": _WORDS[state]})
        links = self.results_of(known)
        output = {"image_url": links[0], "result": links[0], "cost": PRICE_MICROUSD / 1e6}
        times = {"delayTime": 14, "executionTime": 3875}
        return Says.json(200, {"id": known.id, "status": "COMPLETED", "output": output, **times})
