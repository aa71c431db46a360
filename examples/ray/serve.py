"""An endpoint on many machines, with Ray Serve: one `cascade-rt serve` for each replica.

    pip install 'ray[serve]==2.60.0'
    CASCADE_FLAGS='-m stable-cascade --dtype bf16' serve run serve:app
    curl http://127.0.0.1:8000/ -d '{"prompt": "a fox", "seed": 7}' -o fox.png

A replica that is busy answers 503 only when all are, and one whose server has ended starts it again.
"""

import os, shlex

from ray import serve
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cascade_client import Server


@serve.deployment(
    num_replicas=int(os.environ.get("CASCADE_REPLICAS", "1")),
    max_ongoing_requests=2,
    max_queued_requests=64,
    ray_actor_options={"num_cpus": 0.5, "num_gpus": float(os.environ.get("CASCADE_GPUS", "0"))},
)
class Painter:
    def __init__(self):
        self.server = Server(os.environ.get("CASCADE_PROGRAM", "cascade-rt"), shlex.split(os.environ.get("CASCADE_FLAGS", "")))
        self.server.start()

    async def __call__(self, request: Request):
        try:
            order = await request.json()
            return Response(await run_in_threadpool(self.server.picture, order), media_type="image/png")
        except (ValueError, TypeError, RuntimeError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)


app = Painter.bind()
