"""Where a person sees the runs of a tracking store, or by which command."""

QUIET_SERVER = (
    "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    " mlflow server --workers 1"
)
"""MLflow's server without calls to the outside, and in two processes instead of fifteen."""


def page_of(uri: str) -> str:
    """Return the address of a server, or the command that starts one over a database or folder."""
    return uri if uri.startswith("http") else f"{QUIET_SERVER} --backend-store-uri {uri}"
