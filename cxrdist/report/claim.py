"""The CLAIM checklist (Mongan, Moy and Kahn 2020), answered where the software can and left to authors elsewhere."""

from collections import Counter
from collections.abc import Mapping, Sequence

from cxrdist.report.claim_answers import Answer, claim_answers
from cxrdist.report.results import Results
from cxrdist.report.scores import VariantScores
from cxrdist.report.section import Section
from cxrdist.report.table import Column, Table
from cxrdist.report.tables import caption

TOPICS = (
    "AI named in title or abstract",
    "Structured summary",
    "Background and intended use",
    "Objectives and hypotheses",
    "Prospective or retrospective",
    "Goal of the study",
    "Data sources",
    "Eligibility",
    "Preprocessing",
    "Parts of the data that are used",
    "Definitions of data elements",
    "De-identification",
    "Missing data",
    "Ground truth: definition",
    "Ground truth: rationale",
    "Ground truth: annotators",
    "Ground truth: tools",
    "Ground truth: agreement of raters",
    "Sample size and its reason",
    "Division into parts",
    "Level at which parts are disjoint",
    "Model",
    "Software",
    "Initial weights",
    "Training",
    "Choice of the final model",
    "Ensembling",
    "Metrics",
    "Uncertainty and significance",
    "Robustness and sensitivity",
    "Explainability",
    "External data",
    "Flow of participants",
    "Characteristics of each part",
    "Performance on each part",
    "Accuracy and its precision",
    "Failure analysis",
    "Limitations",
    "Implications for practice",
    "Registration",
    "Protocol",
    "Funding",
)
"""Of the items 1 to 42, in other words than the checklist's."""


def claim_section(results: Results, scores: Sequence[VariantScores]) -> Section:
    """Return the table of all items; answers from the study file need `results.config`."""
    return Section("claim-section", "CLAIM checklist", [_table(results, claim_answers(results, scores))])


def _table(results: Results, answers: Mapping[int, Answer]) -> Table:
    items = [(topic, answers.get(number, Answer(""))) for number, topic in enumerate(TOPICS, start=1)]
    counts = Counter(answer.state for _, answer in items)
    return Table(
        name="claim",
        title="CLAIM checklist",
        caption=caption(
            results,
            "Checklist for Artificial Intelligence in Medical Imaging, version of 2020 (Mongan, Moy and Kahn, "
            "Radiology: Artificial Intelligence 2020;2(2):e200029), topics in other words than there: "
            f"{counts['filled in']} items filled in, {counts['to be completed']} to be completed, "
            f"{counts['to be filled in']} to be filled in.",
        ),
        columns=(Column("Item"), Column("Topic"), Column("Answer"), Column("State")),
        rows=tuple((number, topic, answer.text, answer.state) for number, (topic, answer) in enumerate(items, start=1)),
        # A wide table is divided between columns that are no keys; an answer stays with its item.
        keys=3,
        notes=(
            "To be completed: the software knows a part of the answer. To be filled in: it knows nothing. Authors "
            "answer for every item, also for those that are filled in.",
            "The update of 2024 (Tejani et al., Radiology: Artificial Intelligence 2024;6(4):e240300) has 44 items "
            "with other numbers.",
        ),
    )
