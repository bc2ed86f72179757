"""What kind of work a run directory holds: its plan says so."""

import torch

from cxrdist.learn.ranks import ALONE, Ranks
from cxrdist.run.artefacts import read_json
from cxrdist.run.context import Context
from cxrdist.run.lane import Workload
from cxrdist.run.lung_plan import LUNGS
from cxrdist.run.lung_work import LungWorkload
from cxrdist.run.store import Store
from cxrdist.run.study_work import StudyWorkload
from cxrdist.study import layout


def open_workload(store: Store, device: torch.device, ranks: Ranks = ALONE) -> Workload:
    """Open the study, or the training of the lung network, that was planned in a run directory.

    Args:
        store: the run directory.
        device: where units are computed.
        ranks: who computes a fold job of a study together.
    """
    if (read_json(store, layout.PLAN) or {}).get("kind") == LUNGS:
        return LungWorkload(store, device)
    return StudyWorkload(Context(store, device), ranks)
