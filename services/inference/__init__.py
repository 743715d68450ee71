"""The HTTP service that scores images. Never imports torch, monai or MLflow."""
