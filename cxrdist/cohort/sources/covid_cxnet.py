"""COVID-CXNet: metadata.csv and the folder `chest_xray_images/covid19`."""

from cxrdist.cohort.missing import known
from cxrdist.cohort.sources.folder import name_of
from cxrdist.cohort.sources.listing import (
    Collector,
    Listing,
    Place,
    SourceImage,
    age_of,
    sex_of,
    shallowest_first,
)
from cxrdist.cohort.sources.metadata import MetadataOptions, notes_of_near, read_metadata


def list_covid_cxnet(place: Place, options: MetadataOptions) -> Listing:
    """List the images that metadata.csv tells of; all are covid19.

    Raises:
        UserError: there is no metadata.csv, or it is another table.
    """
    path, sheet = read_metadata(place, options, "COVID-CXNet", "filename", "patient_id", "label", "view")
    where = {name_of(file): file for file in reversed(shallowest_first(place.folder.files))}
    collector = Collector(place.folder)
    for row in sheet.rows:
        name = row["filename"]
        if row["label"].casefold() != "covid-19":
            collector.leave(name, "has no label")
        elif name not in where:
            collector.leave(name, f"is listed in {name_of(path)}, but is not in the folder")
        else:
            collector.add(
                SourceImage(
                    image_id=f"{place.name}/{name}",
                    path=where[name],
                    label="covid19",
                    source=place.name,
                    patient_id=f"cxnet:{row['patient_id']}" if known(row["patient_id"]) else None,
                    view_position=known(row["view"]),
                    age=age_of(row.get("age", "")),
                    sex=sex_of(row.get("sex", "")),
                    facts=row,
                )
            )
    notes = [*sheet.notes, *notes_of_near(place.folder, {row["filename"] for row in sheet.rows} - set(where), path)]
    return collector.listing(f"column patient_id of {name_of(path)}", sheet.columns, notes)
