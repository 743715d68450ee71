"""A well-written pyfunc: images as base64 in a data frame's column, one batch a call, no gradients."""

import base64

import mlflow
import torch
from preparing import network_of, pixels_of


class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.network = network_of(context.artifacts["package"])

    def predict(self, context, model_input, params=None):  # noqa: ARG002
        images = [pixels_of(base64.b64decode(text)).copy() for text in model_input["image"]]
        with torch.inference_mode():
            logits = self.network(torch.stack([torch.from_numpy(image) for image in images]))[0]
        return torch.sigmoid(logits[:, 0]).tolist()


mlflow.models.set_model(Model())
