"""The inline executor of a sweep: trials one after another in this process."""

import torch

from cxrdist.learn.train import use_determinism
from cxrdist.machine import usable_cores
from cxrdist.run.sweep import Sweep, TrialEvent
from cxrdist.run.trial import OutOfTimeError, TrialData, TrialStep
from cxrdist.run.trial_work import TrialRules, attempt_trial


class InlineSweeper:
    """Does the trials here; no cluster, no other process."""

    def __init__(self, threads: int | None, device: torch.device) -> None:
        self._device = device
        self._threads = threads or usable_cores()

    def run(self, sweep: Sweep, rules: TrialRules) -> None:
        """Do all trials that are left."""
        use_determinism(self._threads)
        opened: dict[str, TrialData] = {}
        while (claimed := sweep.claim()) is not None:
            search, proposal = claimed
            key, number = search.key, proposal.number
            if key not in opened:
                opened[key] = TrialData(sweep.store, key, self._device)
            sweep.tell(TrialEvent("started", key, number, "inline"))

            def on_step(step: TrialStep, key: str = key, number: int = number) -> None:
                sweep.tell(TrialEvent("step", key, number, "inline", step.work, step.mean))

            try:
                record = attempt_trial(
                    opened[key], proposal, rules, on_step, lambda text: sweep.tell(TrialEvent("note", text=text))
                )
            except OutOfTimeError:
                sweep.out_of_time = True
                sweep.give_back(key, number)
            else:
                sweep.settle(key, record)
