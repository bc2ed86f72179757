"""Croissant metadata of a cohort, for machines and for search: JSON-LD on top of schema.org.

http://mlcommons.org/croissant/1.0, with the fields for responsible use that are known, of
http://mlcommons.org/croissant/RAI/1.0.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from cxrdist.cohort.card import COLUMNS, MOST_ROWS, CardFile, Described, Stated, files_of, summary
from cxrdist.cohort.check_text import MOST_OF_A_CELL, MOST_OF_A_REASON, one_line, short_name
from cxrdist.cohort.schema import COHORT_SCHEMA, OPTIONAL_EXTRA
from cxrdist.cohort.table import Cohort

_ABOUT_PERSONS = ("patient_id", "age", "sex")
_MIME_TYPES = {
    ".bmp": "image/bmp",
    ".dcm": "application/dicom",
    ".dicom": "application/dicom",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
}
_TABLE_TYPES = {".csv": "text/csv", ".parquet": "application/x-parquet"}
_YAML_TYPE = "application/yaml"
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,8}")
_MOST_ENDINGS = 20

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "includes": "cr:includes",
    "key": "cr:key",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "sc": "https://schema.org/",
    "source": "cr:source",
}
"""Appendix 1 of the specification, as far as its terms are used here, with those that its examples need besides."""


def croissant(described: Described, stated: Stated) -> dict[str, Any]:
    """Return the metadata; what was not stated is left out (see `Stated.missing`)."""
    creators = [{"@type": "sc:Person", "name": _exact(name)} for name in stated.persons]
    creators += [{"@type": "sc:Organization", "name": _exact(name)} for name in stated.organisations]
    facts = {
        "description": _exact(stated.description or summary(described)),
        "license": _licence(stated.licence) if stated.licence else None,
        "citeAs": _exact(stated.citation) if stated.citation else None,
        "url": _exact(stated.url) if stated.url else None,
        "creator": creators,
        "datePublished": stated.published,
        **_responsible_use(described),
    }
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": _exact(stated.name),
        **{key: value for key, value in facts.items() if value},
        "distribution": [*map(_file_object, files_of(described)), *_file_sets(described.cohort)],
        "recordSet": [_classes(described.cohort), _images(described), *_file_records(described.cohort)],
    }


def json_bytes(metadata: Mapping[str, Any]) -> bytes:
    """Return metadata as JSON in UTF-8, the same bytes for the same metadata."""
    return (json.dumps(metadata, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()


def _exact(text: str) -> str:
    """Return text as it is, unless it is far too long or not Unicode."""
    return text[:MOST_OF_A_CELL].encode(errors="replace").decode()


def _licence(licence: str) -> str | dict[str, str]:
    return licence if is_web_address(licence) else {"@type": "sc:CreativeWork", "name": _exact(licence)}


def is_web_address(text: str) -> bool:
    """Whether text is an address of the web, which Croissant takes for a URL."""
    return re.fullmatch(r"https?://[!-~]{1,1000}", text) is not None


def _responsible_use(described: Described) -> dict[str, str | list[str]]:
    cohort, table, n = described.cohort, described.table, len(described.cohort)
    personal = [name for name in _ABOUT_PERSONS if described.filled.get(name)]
    gaps = [
        f"{name} for {n - described.filled.get(name, 0):,} of {n:,} images"
        for name in COHORT_SCHEMA.names
        if described.filled.get(name, 0) < n
    ]
    return {
        "rai:dataCollectionRawData": "Sources: " + ", ".join(map(short_name, table.source.names[:MOST_ROWS]))
        if table.source.names
        else "",
        "rai:dataCollectionMissingData": f"Not known: {'; '.join(gaps)}" if gaps else "",
        "rai:personalSensitiveInformation": [f"{name}: {COLUMNS[name]}" for name in personal],
        "rai:dataBiases": [one_line(doubt, MOST_OF_A_REASON) for doubt in cohort.doubts()],
    }


def _file_object(file: CardFile) -> dict[str, str]:
    ending = PurePosixPath(file.name).suffix.lower()
    return {
        "@type": "cr:FileObject",
        "@id": "manifest" if ending in _TABLE_TYPES else "recipe",
        "name": _exact(file.name),
        "contentUrl": quote(file.name.encode(errors="replace")),
        "contentSize": f"{file.n_bytes} B",
        "encodingFormat": _TABLE_TYPES.get(ending, _YAML_TYPE),
        "sha256": file.sha256,
    }


def _file_sets(cohort: Cohort) -> Iterator[dict[str, Any]]:
    for identifier, column, what in (("image-files", "path", "images"), ("mask-files", "mask_path", "lung masks")):
        endings = sorted({PurePosixPath(path).suffix for path in cohort.column(column) if path})
        if not endings:
            continue
        plain = len(endings) <= _MOST_ENDINGS and all(map(_ENDING.fullmatch, endings))
        types = sorted({_MIME_TYPES.get(ending.lower(), "application/octet-stream") for ending in endings})
        yield {
            "@type": "cr:FileSet",
            "@id": identifier,
            "name": identifier,
            "description": f"The files of the {what}; they are not distributed with the manifest, which lists them.",
            "containedIn": {"@id": "manifest"},
            "encodingFormat": types[0] if len(types) == 1 else types,
            "includes": [f"**/*{ending}" for ending in endings] if plain else ["**/*"],
        }


def _classes(cohort: Cohort) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/name"},
        "field": [{"@type": "cr:Field", "@id": "classes/name", "name": "name", "dataType": ["sc:Text", "sc:name"]}],
        "data": [{"classes/name": _exact(name)} for name in cohort.classes],
    }


def _images(described: Described) -> dict[str, Any]:
    manifest = described.table.manifest
    references = {"label": "classes/name", "path": "files/path", "mask_path": "masks/path"}
    if not described.filled.get("mask_path"):
        del references["mask_path"]
    ages_are_numbers = int(described.table.age.counts().sum()) == described.filled.get("age")
    types: dict[str, Any] = {"label": ["sc:Text", "cr:Label"], "age": "sc:Float" if ages_are_numbers else "sc:Text"}
    only = "".join(f"; only rows where {column} is {' or '.join(values)}" for column, values in manifest.where.items())
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": _exact(f"One record for each image{only}."),
        "key": {"@id": "images/image_id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"images/{name}",
                "name": name,
                "description": COLUMNS[name],
                "dataType": types.get(name, "sc:Text"),
                "source": {"fileObject": {"@id": "manifest"}, "extract": {"column": manifest.columns[name]}},
                **({"references": {"@id": references[name]}} if name in references else {}),
            }
            for name in (*COHORT_SCHEMA.names, *OPTIONAL_EXTRA)
            if name in manifest.columns
        ],
    }


def _file_records(cohort: Cohort) -> Iterator[dict[str, Any]]:
    records = {"image-files": "files", "mask-files": "masks"}
    for files in _file_sets(cohort):
        identifier = records[files["@id"]]
        yield {
            "@type": "cr:RecordSet",
            "@id": identifier,
            "name": identifier,
            "key": {"@id": f"{identifier}/path"},
            "field": [
                {
                    "@type": "cr:Field",
                    "@id": f"{identifier}/{name}",
                    "name": name,
                    "dataType": data_type,
                    "source": {"fileSet": {"@id": files["@id"]}, "extract": {"fileProperty": file_property}},
                }
                for name, data_type, file_property in (
                    ("path", "sc:Text", "fullpath"),
                    ("content", "sc:ImageObject", "content"),
                )
            ],
        }
