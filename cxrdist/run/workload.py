"""What kind of work a run directory holds: its plan says so."""

from pathlib import Path

import torch

from cxrdist.run.context import Context
from cxrdist.run.lane import Workload
from cxrdist.run.lung_plan import LUNGS
from cxrdist.run.lung_work import LungWorkload
from cxrdist.run.store import Store
from cxrdist.run.study_work import StudyWorkload
from cxrdist.study import layout


def open_workload(run_dir: Path, device: torch.device) -> Workload:
    """Open the study, or the training of the lung network, that was planned in `run_dir`."""
    store = Store(run_dir)
    if (store.read_json(layout.PLAN) or {}).get("kind") == LUNGS:
        return LungWorkload(store, device)
    return StudyWorkload(Context(run_dir, device))
