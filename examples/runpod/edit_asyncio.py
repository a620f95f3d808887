"""Edits a photo in several ways at once with the asyncio client of RunPod's package, and follows one of them.

pip install runpod
export RUNPOD_ENDPOINT_BASE_URL=http://127.0.0.1:8000/v2 RUNPOD_API_KEY=any
python edit_asyncio.py photo.jpg
"""

import asyncio
import base64
import os
import sys
from pathlib import Path

import aiohttp
from runpod import AsyncioEndpoint

INSTRUCTIONS = ("make it grayscale", "make it brighter", "invert the colors")


async def main(photo: str) -> None:
    async with aiohttp.ClientSession() as session:
        endpoint = AsyncioEndpoint("qwen-image-edit", session, os.environ["RUNPOD_API_KEY"])
        # This client wraps its argument in "input" by itself.
        jobs = [await endpoint.run({"prompt": prompt, "image": photo}) for prompt in INSTRUCTIONS]
        async for chunk in jobs[0].stream():
            print(chunk.get("progress", "done"), chunk.get("partial_image_url") or chunk["image_url"])
        outputs = await asyncio.gather(*(job.output(timeout=600) for job in jobs))
        for prompt, output in zip(INSTRUCTIONS, outputs, strict=True):
            print(prompt, output["image_url"])


asyncio.run(main(base64.b64encode(Path(sys.argv[1]).read_bytes()).decode()))
