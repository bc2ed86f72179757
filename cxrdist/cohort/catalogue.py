"""The public sources of chest X-rays that are known by name: where their home is, and on which terms they are given.

What could not be verified is null: a size that is not known, a checksum that nobody has published.
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cxrdist.errors import UserError, one_of

GB = 1_000_000_000

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Download:
    """One archive at one address."""

    homepage: str
    address: str
    hosts: frozenset[str]
    """Where the address may redirect to, its own host included."""
    most_bytes: int
    """More than this is certainly not the archive, and is refused."""
    size: int | None = None
    """In bytes."""
    sha256: str | None = None

    def refusal(self, url: str) -> str | None:
        """Return why nothing may be read from `url`, or None where it may."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return "it is not an address"
        # What two parsers of addresses may read differently is refused before it can matter.
        if "@" in parts.netloc or re.search(r"[\\\s\x00-\x1f]", url):
            return "it is not a plain address"
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            return "it is not encrypted (https)"
        if parts.hostname not in self.hosts:
            return f"its host is not {one_of(sorted(self.hosts))}"
        return None


@dataclass(frozen=True)
class KaggleDataset:
    """A data set that Kaggle's own client fetches, with the token of whoever asks."""

    handle: str
    """`owner/name`."""
    most_bytes: int
    size: int | None = None
    sha256: str | None = None

    @property
    def address(self) -> str:
        """Its page."""
        return f"https://www.kaggle.com/datasets/{self.handle}"

    homepage = address


@dataclass(frozen=True)
class ByHand:
    """A source that a person has to ask for at its home."""

    homepage: str
    terms: str


@dataclass(frozen=True)
class Source:
    """A public source of chest X-rays."""

    name: str
    title: str
    licence: str
    terms: str
    citation: str
    home: Download | KaggleDataset | ByHand


def find_source(name: str) -> Source:
    """Return the source called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in SOURCES:
        raise UserError(f"There is no source {name!r}; a source is {one_of(SOURCES, name)}.")
    return SOURCES[name]


def _cohen(name: str, commit: str, state: str) -> Source:
    return Source(
        name=name,
        title=f"COVID-19 image data collection, {state}",
        licence="of each image in metadata.csv (Apache 2.0, CC BY-NC-SA 4.0, CC BY 4.0 and others, many none); "
        "metadata.csv itself CC BY-NC-SA 4.0",
        terms="Keep to the licence of each image; the collectors ask not to claim diagnostic performance without a "
        "clinical study.",
        citation="Cohen JP, Morrison P, Dao L, Roth K, Duong TQ, Ghassemi M. COVID-19 image data collection: "
        "prospective predictions are the future. arXiv:2006.11988, 2020.",
        home=Download(
            homepage="https://github.com/ieee8023/covid-chestxray-dataset",
            address=f"https://codeload.github.com/ieee8023/covid-chestxray-dataset/tar.gz/{commit}",
            hosts=frozenset({"codeload.github.com"}),
            most_bytes=4 * GB,
        ),
    )


def _tuberculosis(name: str, title: str, file: str, **home: Any) -> Source:
    return Source(
        name=name,
        title=title,
        licence="none by name; terms of the US National Library of Medicine, in the ReadMe of the set",
        terms="Cite the articles, name the library as the provider, and do not share the set outside your research "
        "group or organization.",
        citation="Jaeger S, Candemir S, Antani S, Wang YX, Lu PX, Thoma G. Two public chest X-ray datasets for "
        "computer-aided screening of pulmonary diseases. Quant Imaging Med Surg 2014;4(6):475-477. Candemir S et al. "
        "Lung segmentation in chest radiographs using anatomical atlases with nonrigid registration. IEEE Trans Med "
        "Imaging 2014;33(2):577-590.",
        home=Download(
            homepage="https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets/index.html",
            address=f"https://openi.nlm.nih.gov/imgs/collections/{file}",
            hosts=frozenset({"openi.nlm.nih.gov", "data.lhncbc.nlm.nih.gov"}),
            **home,
        ),
    )


_ALL = (
    _cohen("cohen", "cec70df07d40383581484c70bb6ada1e6a2fc077", "a late state of 2020"),
    _cohen("cohen-2020-05-27", "093cc11", "state of 2020-05-27, the day that paper 1 names"),
    _tuberculosis(
        "montgomery",
        "Montgomery County chest X-ray set: 138 images with lung masks",
        "NLM-MontgomeryCXRSet.zip",
        most_bytes=2 * GB,
    ),
    _tuberculosis(
        "shenzhen", "Shenzhen Hospital chest X-ray set: 662 images", "ChinaSet_AllFiles.zip", most_bytes=8 * GB
    ),
    Source(
        name="kaggle",
        title="Chest X-Ray Images (Pneumonia): paediatric, normal, bacterial and viral pneumonia",
        licence="CC BY 4.0",
        terms="Name the authors; Kaggle's own terms hold for the account that fetches.",
        citation="Kermany D, Zhang K, Goldbaum M. Labeled optical coherence tomography (OCT) and chest X-ray images "
        "for classification. Mendeley Data, v2, 2018. doi:10.17632/rscbjbr9sj.2.",
        home=KaggleDataset("paultimothymooney/chest-xray-pneumonia", most_bytes=8 * GB),
    ),
    Source(
        name="radiography",
        title="COVID-19 Radiography Database",
        licence="not known here: it stands on the homepage",
        terms="Read the licence there first. The images come from other collections (cohen, kaggle and rsna among "
        "them) without patient ids: never mix them with those.",
        citation="Chowdhury MEH et al. Can AI help in screening viral and COVID-19 pneumonia? IEEE Access "
        "2020;8:132665-132676. Rahman T et al. Exploring the effect of image enhancement techniques on COVID-19 "
        "detection using chest X-ray images. Comput Biol Med 2021;132:104319.",
        home=KaggleDataset("tawsifurrahman/covid19-radiography-database", most_bytes=8 * GB),
    ),
    Source(
        name="nih",
        title="NIH ChestX-ray14: 112,120 frontal images of 30,805 patients",
        licence="no restrictions on use",
        terms="Link to the homepage, cite the article, and name the NIH Clinical Center as the provider.",
        citation="Wang X, Peng Y, Lu L, Lu Z, Bagheri M, Summers RM. ChestX-ray8: hospital-scale chest X-ray database "
        "and benchmarks on weakly-supervised classification and localization of common thorax diseases. CVPR 2017, "
        "3462-3471.",
        home=ByHand(
            "https://nihcc.app.box.com/v/ChestXray-NIHCC",
            "you may use the images freely if you link to that page, cite Wang et al. 2017, and name the NIH Clinical "
            "Center as the provider",
        ),
    ),
    Source(
        name="rsna",
        title="RSNA Pneumonia Detection Challenge 2018",
        licence="terms of use and attribution of the RSNA",
        terms="Give the attribution that the homepage asks for.",
        citation="Shih G et al. Augmenting the National Institutes of Health chest radiograph dataset with expert "
        "annotations of possible pneumonia. Radiol Artif Intell 2019;1(1):e180041.",
        home=ByHand(
            "https://www.rsna.org/education/ai-resources-and-training/ai-image-challenge/"
            "rsna-pneumonia-detection-challenge-2018",
            "accept the terms of use and attribution there, which allow research, teaching and other use",
        ),
    ),
)

SOURCES = {source.name: source for source in _ALL}
