"""The service's settings: schema default < HILUM_* of the environment < the command's flags."""

import os
from collections.abc import Mapping

from pydantic import Field

from data_schemas.document import Part
from data_schemas.settings import Layer, resolve
from data_schemas.terms import PrecisionWish, RuntimeWish

PREFIX = "HILUM_"


class ServiceSettings(Part):
    """Everything about the service that isn't the model. Each field is also ``HILUM_<FIELD>``."""

    model: str = Field(
        default="", description="package folder, models:/NAME@alias or models:/NAME/VERSION"
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="0: any free port")
    threads: int = Field(
        default=0, ge=0, le=256, description="images scored at once; 0: the cores it may use"
    )
    runtime: RuntimeWish = Field(
        default="auto", description="what runs the model: auto, onnxruntime, openvino or cuda"
    )
    precision: PrecisionWish = Field(
        default="auto",
        description="auto is fp32; bf16, int8: refused unless the package's evidence allows it; "
        "fast: the fastest that it allows",
    )
    batch: int = Field(
        default=0,
        ge=0,
        le=64,
        description="images in one run of the model; 0: one on a CPU, 8 on a GPU",
    )
    batch_ms: float = Field(
        default=2.0, ge=0, le=1000, description="a run waits so long for its batch to fill, ms"
    )
    queue: int = Field(
        default=32, ge=0, description="images that may wait for a thread; more are answered 503"
    )
    max_body_mb: int = Field(default=256, ge=1, le=4096, description="largest request body, MiB")
    max_images: int = Field(
        default=64, ge=1, le=4096, description="images of one request that may hold several"
    )
    max_images_mb: int = Field(
        default=256, ge=1, le=4096, description="largest body of several images, MiB"
    )
    max_held_mb: int = Field(
        default=1024, ge=1, description="bodies held at once, MiB; more are answered 503"
    )
    body_seconds: float = Field(
        default=60.0, gt=0, description="time for a body to arrive; slower ones are answered 408"
    )
    drain_seconds: int = Field(
        default=30, ge=0, description="time for requests under way to end after SIGTERM"
    )
    receipts: str = Field(default="", description="folder of the receipt log; empty: none is kept")
    receipt_key_file: str = Field(
        default="",
        description="keys that seal receipts, 32 hex digits or more a line; the first is used",
    )
    receipt_file_mb: int = Field(
        default=64, ge=1, description="a file of the receipt log is ended at this size, MiB"
    )
    keys_file: str = Field(default="", description="API keys, as `hilum keys` writes them")
    oidc_issuer: str = Field(default="", description="address of the issuer of bearer tokens")
    oidc_audience: str = Field(default="", description="what tokens for this service name as `aud`")
    oidc_jwks_url: str = Field(
        default="", description="where the issuer's keys are; empty: as its discovery document says"
    )
    rate: float = Field(
        default=0.0, ge=0, description="requests a second of one key, in each worker; 0: no limit"
    )
    burst: float = Field(
        default=0.0, ge=0, description="requests of one key at once; 0: those of a second"
    )
    insecure_open: bool = Field(
        default=False, description="let other machines in without asking who they are"
    )
    hosts: str = Field(
        default="", description="names, besides loopback, under which browsers may reach it openly"
    )
    tls_cert: str = Field(default="", description="PEM file: the certificate with its chain")
    tls_key: str = Field(default="", description="PEM file: the certificate's key")
    trusted_proxies: str = Field(
        default="", description="addresses whose X-Forwarded headers are believed; empty: none"
    )
    trusted_keys: str = Field(
        default="", description="public keys; if named, only packages signed by one are served"
    )
    workers: int = Field(
        default=0, ge=0, le=64, description="serving processes; 0: one for each 8 cores"
    )
    header_seconds: float = Field(
        default=10.0, gt=0, description="time for a request's headers; slower clients are cut off"
    )
    answer_seconds: float = Field(
        default=60.0, gt=0, description="time for an answer, body included; later ones are 503"
    )
    decode_seconds: float = Field(
        default=30.0, gt=0, description="time for decoding one image; slower ones are refused"
    )
    decode_memory_mb: int = Field(
        default=2048, ge=0, description="address space that decoding may add, MiB; 0: no limit"
    )
    isolate: bool = Field(default=True, description="decode in processes apart from the worker's")
    follow_seconds: float = Field(
        default=30.0,
        ge=0,
        description="how often models:/NAME@ALIAS is looked up; 0: only at start",
    )
    shadow: str = Field(
        default="", description="package folder of a challenger that scores the same images unseen"
    )
    shadow_report: str = Field(
        default="", description="folder for the pairs of champion's and challenger's answers"
    )
    drift_window: int = Field(
        default=1000, ge=0, description="images that drift is measured over; 0: it isn't measured"
    )
    traces: str = Field(
        default="",
        description="address that OpenTelemetry traces are sent to (OTLP over HTTP); empty: none are",
    )
    figures_folder: str = Field(
        default="", description="where workers keep their figures; set by the command"
    )

    @property
    def max_body_bytes(self) -> int:
        """Largest request body, bytes."""
        return self.max_body_mb * 2**20

    @property
    def max_images_bytes(self) -> int:
        """Largest body of several images, bytes; never less than that of one."""
        return max(self.max_images_mb * 2**20, self.max_body_bytes)

    @property
    def max_held_bytes(self) -> int:
        """Bytes of all bodies held at once; never less than one whole body."""
        return max(self.max_held_mb * 2**20, self.max_body_bytes)


def from_door(
    flags: Mapping[str, object], environment: Mapping[str, str] | None = None
) -> ServiceSettings:
    """Resolve the settings from the environment and the command's flags (``None``: not given).

    Raises
    ------
    ConfigError
        With every fault, each naming its variable or flag.
    """
    environment = os.environ if environment is None else environment
    variables = {
        name: environment[PREFIX + name.upper()]
        for name in ServiceSettings.model_fields
        if environment.get(PREFIX + name.upper())
    }
    given = {name: value for name, value in flags.items() if value is not None}
    return resolve(
        ServiceSettings,
        [
            Layer(dict(variables), {(name,): PREFIX + name.upper() for name in variables}),
            Layer(given, {(name,): "--" + name.replace("_", "-") for name in given}),
        ],
    )
