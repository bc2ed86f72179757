"""What running a study would do to a run directory, said without doing it."""

from contextlib import ExitStack

from cxrdist.config.models import Study
from cxrdist.run.computing import read_computing, settle
from cxrdist.run.driver import Display, number_of_jobs, open_tools
from cxrdist.run.object_store import explained_cache
from cxrdist.run.plan_file import cache_of
from cxrdist.run.prepare import Prepared, prepare
from cxrdist.run.set_aside import describe_misfits, find_misfits, free_place, open_jobs, require_same_study
from cxrdist.run.store import Store


def look_ahead(study: Study, store: Store, display: Display) -> None:
    """Say which fold jobs would be kept, set aside and done; images that are not yet are decoded into the cache.

    Raises:
        UserError: the study, the cohort, the run directory or the cluster does not allow it.
    """

    def show(planned: Prepared) -> bool:
        jobs = planned.plan.jobs
        misfits = find_misfits(store, jobs, planned.searches, open_jobs(study, jobs))
        for sentence in describe_misfits(misfits, len(jobs), store.where(free_place(store))):
            display.say(sentence)
        display.say(f"{len(jobs) - misfits.kept} of {len(jobs)} fold jobs would be done. Nothing was changed.")
        return False

    require_same_study(store, study)
    with ExitStack() as stack:
        stack.enter_context(explained_cache(cache_of(study.execution)))
        ranks = study.training.gpus_per_fold
        tools = open_tools(study.execution, stack, ranks=ranks)
        earlier, n_jobs = read_computing(store), number_of_jobs(study)
        prepare(
            study,
            store,
            device=tools.device,
            computing=lambda: settle(earlier, study.execution, ranks, lambda: tools.decide(n_jobs)),
            run_chunks=tools.run_chunks,
            run_mask_chunks=tools.run_mask_chunks,
            on_decoded=display.decoded,
            on_masked=display.masked,
            on_note=display.say,
            on_planned=show,
        )
