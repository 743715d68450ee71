"""What the columns of a label table are called that say what a row is about."""

import re

ROLES = ("image", "source_sha256", "sop_instance_uid", "patient", "laterality", "site", "split")
"""Columns that say what a row is about; they are never labels."""

KEYS = ("image", "source_sha256", "sop_instance_uid", "patient")
"""Those that say which images a row is about; every table has one of them."""

ALIASES = {
    "image": ("file", "filename", "file_name", "path", "image_path", "image_file"),
    "sop_instance_uid": ("sopinstanceuid",),
    "patient": ("patient_id", "patientid", "subject_id"),
    "laterality": ("eye", "side"),
    "site": ("institution", "hospital"),
}


def label_name(title: str) -> str:
    """Return a column's title as a label's name: small letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def is_key(title: str) -> bool:
    """Tell whether a column of this title says which images a row is about."""
    return label_name(title) in {name for key in KEYS for name in (key, *ALIASES.get(key, ()))}
