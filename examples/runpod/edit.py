"""Edits a photo with RunPod's own package: once while the program waits, once as a job it comes back to.

    pip install runpod
    export RUNPOD_ENDPOINT_BASE_URL=http://127.0.0.1:8000/v2 RUNPOD_API_KEY=any
    python edit.py photo.jpg

The package reads the address once, when it is imported, and the key not at all.
"""

import base64
import os
import sys
from pathlib import Path

import runpod

runpod.api_key = os.environ["RUNPOD_API_KEY"]
endpoint = runpod.Endpoint("qwen-image-edit")
photo = base64.b64encode(Path(sys.argv[1]).read_bytes()).decode()

output = endpoint.run_sync({"prompt": "make it grayscale", "image": photo}, timeout=600)
if output is None:
    sys.exit("The edit failed; `status` of the job says why.")
print(output["image_url"], output["cost"])

job = endpoint.run({"input": {"prompt": "make it brighter", "image": photo, "seed": 7}, "policy": {"ttl": 3_600_000}})
print(job.job_id, job.status())
print(job.output(timeout=600)["image_url"])
