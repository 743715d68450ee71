"""What schemathesis is told about bodies: how the image types are sent, and real files among the random ones."""

import schemathesis
from hypothesis import strategies as st

from tests.services import drawn_files as drawn

PIXELS = drawn.fundus(1, 120)
REAL = {
    "application/dicom": drawn.dicom(PIXELS),
    "image/jpeg": drawn.encoded(PIXELS),
    "image/png": drawn.encoded(PIXELS, "PNG"),
    "image/tiff": drawn.encoded(PIXELS, "TIFF"),
}


@schemathesis.serializer("application/dicom", "image/tiff", "image/jpeg", "image/png")
def as_it_is(ctx, value):
    return value if isinstance(value, bytes) else str(value).encode()


for kind, data in REAL.items():
    schemathesis.openapi.media_type(kind, st.just(data) | st.binary(min_size=1))


@schemathesis.hook
def before_load_schema(ctx, raw_schema):
    # words stand there for bytes, which JSON can't hold; real bytes stand above
    for kind in REAL:
        raw_schema["paths"]["/v1/scores"]["post"]["requestBody"]["content"][kind].pop("example")
