"""LitServe and torch eager with batching, as its documentation shows: batches of 8, 10 ms."""

import base64
import os
import sys

import litserve
import torch
from preparing import network_of, pixels_of


class Api(litserve.LitAPI):
    def setup(self, device):  # noqa: ARG002
        self.network = network_of(os.environ["BENCH_PACKAGE"])

    def decode_request(self, request):
        return torch.from_numpy(pixels_of(base64.b64decode(request["image"])).copy())

    def predict(self, batch):
        with torch.inference_mode():
            return torch.sigmoid(self.network(batch)[0][:, 0])

    def encode_response(self, output):
        return {"probability": float(output)}

    def batch(self, inputs):
        return torch.stack(inputs)

    def unbatch(self, output):
        return list(output)


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=8, batch_timeout=0.01),
        accelerator="cpu",
        workers_per_device=1,
        timeout=600,
    )
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False)
