"""FastAPI and torch eager, as tutorials write it: UploadFile, a plain function, one network."""

import os

import torch
from fastapi import FastAPI, UploadFile
from preparing import network_of, pixels_of

app = FastAPI()
network = network_of(os.environ["BENCH_PACKAGE"])


@app.post("/predict")
def predict(file: UploadFile) -> dict[str, float]:
    images = torch.from_numpy(pixels_of(file.file.read()).copy())[None]
    with torch.inference_mode():
        probability = torch.sigmoid(network(images)[0][0, 0])
    return {"probability": float(probability)}
