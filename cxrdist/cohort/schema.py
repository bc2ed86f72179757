"""The columns of a cohort."""

import pyarrow as pa

REQUIRED = ("image_id", "path", "label")

COHORT_SCHEMA = pa.schema(
    [
        pa.field(name, pa.string(), nullable=name not in REQUIRED)
        for name in (*REQUIRED, "patient_id", "source", "view_position", "sha256", "group_id", "mask_path")
    ]
)
"""`path` and `mask_path` are relative to the image folder; optional values are null where unknown."""

OPTIONAL_EXTRA = ("original_sha256", "pixel_sha256", "age", "sex")
"""What a manifest may tell beside, of where images come from and of patients (`age` in years); no study uses it."""
