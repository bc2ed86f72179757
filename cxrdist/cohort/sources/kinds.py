"""The kinds of sources by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cxrdist.cohort.sources.cohen import list_cohen
from cxrdist.cohort.sources.covid_cxnet import list_covid_cxnet
from cxrdist.cohort.sources.dicom_folder import DicomOptions, list_dicom
from cxrdist.cohort.sources.kaggle_pneumonia import KagglePneumoniaOptions, list_kaggle_pneumonia
from cxrdist.cohort.sources.listing import Listing, Place
from cxrdist.cohort.sources.mapped_table import TableOptions, list_table
from cxrdist.cohort.sources.metadata import MetadataOptions
from cxrdist.cohort.sources.nih import NihOptions, list_nih
from cxrdist.cohort.sources.radiography import RadiographyOptions, list_radiography
from cxrdist.cohort.sources.rsna import RsnaOptions, list_rsna
from cxrdist.cohort.sources.tuberculosis import TuberculosisOptions, list_montgomery, list_shenzhen
from cxrdist.config.section import Section


@dataclass(frozen=True)
class Kind:
    """A kind of source."""

    options: type[Section]
    """What a recipe can say of it."""
    list_images: Callable[[Place, Any], Listing]
    """What it has; the options are of `options`."""


KINDS = {
    "cohen": Kind(MetadataOptions, list_cohen),
    "covid_cxnet": Kind(MetadataOptions, list_covid_cxnet),
    "kaggle_pneumonia": Kind(KagglePneumoniaOptions, list_kaggle_pneumonia),
    "radiography": Kind(RadiographyOptions, list_radiography),
    "nih": Kind(NihOptions, list_nih),
    "rsna": Kind(RsnaOptions, list_rsna),
    "montgomery": Kind(TuberculosisOptions, list_montgomery),
    "shenzhen": Kind(TuberculosisOptions, list_shenzhen),
    "table": Kind(TableOptions, list_table),
    "dicom": Kind(DicomOptions, list_dicom),
}
