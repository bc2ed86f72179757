"""The inline executor of a sweep: trials one after another in this process."""

from cxrdist.learn.train import use_determinism
from cxrdist.run.computing import Computing, device_of
from cxrdist.run.sweep import Sweep, TrialEvent
from cxrdist.run.trial import OutOfTimeError, TrialData, TrialStep
from cxrdist.run.trial_work import TrialRules, attempt_trial


class InlineSweeper:
    """Does the trials here; no cluster, no other process."""

    def run(self, sweep: Sweep, rules: TrialRules, computing: Computing) -> None:
        """Do all trials that are left.

        Raises:
            UserError: a GPU is planned for, and there is none.
        """
        device = device_of(computing)
        use_determinism(computing.trial_threads)
        opened: dict[str, TrialData] = {}
        while (claimed := sweep.claim()) is not None:
            search, proposal = claimed
            key, number = search.key, proposal.number
            if key not in opened:
                opened[key] = TrialData(sweep.store, key, device)
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
