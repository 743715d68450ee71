"""FastAPI and ONNX Runtime with nothing around them: what a cold start is measured against."""

import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request
from preparing import pixels_of
from starlette.concurrency import run_in_threadpool

app = FastAPI()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(
    os.path.join(os.environ["BENCH_PACKAGE"], "model.onnx"),  # noqa: PTH118
    options,
    providers=["CPUExecutionProvider"],
)


def scored(data: bytes) -> float:
    (logits,) = session.run(["logits"], {"images": pixels_of(data)[None]})
    return float(1 / (1 + np.exp(-logits[0, 0])))


@app.post("/predict")
async def predict(request: Request) -> dict[str, float]:
    return {"probability": await run_in_threadpool(scored, await request.body())}
