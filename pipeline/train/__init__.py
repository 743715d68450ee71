"""A data set and a plan to a calibrated network, in an MLflow run."""
