"""The only room that imports MLflow: runs, logging, registry."""
