"""DashScope: the call that answers with images, tasks, and the policy of uploads."""

from __future__ import annotations

import re
from typing import Any

from tests.upstreams.stubs.server import Says, Seen, StubJob, StubProvider

_TASK = re.compile(r"/api/v1/tasks/(?P<id>[^/]+)(?P<what>/cancel)?")
_WORDS = {"queued": "PENDING", "running": "RUNNING", "done": "SUCCEEDED", "cancelled": "CANCELED", "aborted": "UNKNOWN"}


class DashScopeStub(StubProvider):
    def station(self, method: str, path: str) -> str:
        if path in ("/api/v1/uploads", "/oss"):
            return "upload"
        found = _TASK.fullmatch(path)
        return "submit" if found is None else "cancel" if found["what"] else "poll"

    def answer(self, request: Seen) -> Says:
        if request.path == "/oss":
            return Says(200)
        if request.station == "upload":
            signed = {"oss_access_key_id": "a", "signature": "s", "policy": "p", "x_oss_object_acl": "private"}
            return Says.json(200, {"data": {"upload_host": f"{self.url}/oss", "upload_dir": "dir/1", **signed}})
        if request.station == "submit":
            job = self.new_job(request.json["parameters"], images=request.json["parameters"].get("n", 1))
            if request.headers.get("x-dashscope-async") != "enable":
                return Says.json(200, {"request_id": "r", "output": self._output(job), "usage": {"image_count": 1}})
            return Says.json(200, {"request_id": "r", "output": {"task_id": job.id, "task_status": "PENDING"}})
        return self._task(request)

    def _task(self, request: Seen) -> Says:
        found = _TASK.fullmatch(request.path)
        assert found is not None
        known = self.jobs.get(found["id"])
        if known is None:
            return Says.json(200, {"request_id": "r", "output": {"task_id": found["id"], "task_status": "UNKNOWN"}})
        if request.station == "cancel":
            if known.state != "queued":
                return Says.json(400, {"code": "UnsupportedOperation", "message": "not pending"})
            known.plan.clear()
            known.plan.append("cancelled")
            return Says.json(200, {"request_id": "r"})
        state = known.step()
        output = self._output(known) if state == "done" else {}
        return Says.json(
            200, {"request_id": "r", "output": {"task_id": known.id, "task_status": _WORDS[state], **output}}
        )

    def _output(self, job: StubJob) -> dict[str, Any]:
        content = [[{"image": link}] for link in self.results_of(job)]
        return {"choices": [{"message": {"role": "assistant", "content": part}} for part in content]}
