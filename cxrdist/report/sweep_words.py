"""What is said of a sweep: what was searched and how, and where a wider space might do better."""

import math

from cxrdist.report.sweep import STATES, SweepSummary, key_title, metric_title, show_searched

NESTED = (
    "No test image had a part in the choice of the settings that it tests: each search saw the training and validation "
    "parts of its own outer fold alone."
)
_SEARCHERS = {
    "tpe": "Settings were proposed by a tree-structured Parzen estimator (TPE, of Optuna), which learns from earlier "
    "trials.",
    "random": "Settings were drawn at random.",
}
_SCHEDULERS = {
    "asha": "By successive halving (ASHA; Li et al. 2020) a trial stopped early where its mean so far was not among "
    "the best third of those that had come as far.",
    "none": "No trial was stopped early.",
}
_EVERYTHING = "Every combination was to be tried, in order."


def how_it_was_searched(summary: SweepSummary) -> tuple[str, ...]:
    """Return paragraphs: what was searched and how, how the trials ended, and whether test images had a part."""
    trials = [trial for search in summary.searches for trial in search.trials]
    counts = [(sum(trial.state == state for trial in trials), words) for state, words in STATES.items()]
    ended = ", ".join(f"{count} {words}" for count, words in counts if count)
    seconds = math.fsum(trial.seconds for trial in trials)
    early = [
        f"{search.variant}{'' if search.shared else f' fold {search.fold}'} ({len(search.trials)} of {search.planned})"
        for search in summary.searches
        if len(search.trials) < search.planned
    ]
    searcher = _SEARCHERS.get(summary.searcher, f"Searcher: {summary.searcher}.")
    return (
        f"Searched: {space(summary)}.",
        f"{design(summary)} {_EVERYTHING if summary.tries_everything else searcher} "
        f"{_SCHEDULERS.get(summary.scheduler, f'Scheduler: {summary.scheduler}.')}",
        f"Of {_counted(len(trials), 'trial')}: {ended}. Training and testing took {show_duration(seconds)}, added up "
        "over trials.",
        *([f"Ended before all planned trials were made: {', '.join(early)}."] if early else []),
        *([] if summary.shared else [NESTED]),
    )


def space(summary: SweepSummary) -> str:
    """Return each setting with what was searched of it."""
    return "; ".join(f"{key_title(key)} {show_searched(summary, key)}" for key in summary.keys)


def design(summary: SweepSummary) -> str:
    """Return a sentence: how many searches, trials and inner folds, and the metric."""
    planned = sorted({search.planned for search in summary.searches})
    trials = " to ".join(str(number) for number in (planned if len(planned) == 1 else (planned[0], planned[-1])))
    folds = {search.fold for search in summary.searches}
    where = f"of fold {folds.pop()}" if len(folds) == 1 else "of their outer folds"
    inner = f"{_counted(summary.inner_folds, 'inner fold')} each"
    better = "more" if summary.larger_is_better else "less"
    return (
        f"{_counted(len(summary.searches), 'search', 'searches')} in the training and validation parts {where}: "
        f"{trials} {'trial' if trials == '1' else 'trials'} on {inner}, by the mean "
        f"{metric_title(summary.metric)} ({summary.metric}; {better} is better) of the inner folds' held-out parts."
    )


def at_ends(summary: SweepSummary) -> tuple[str, ...]:
    """Return a sentence for each variant, setting and end of its range at which choices lie."""
    sentences = []
    for variant in summary.variants:
        searches = summary.of(variant)
        for key in summary.keys:
            searched = show_searched(summary, key)
            ends = [summary.end_of_range(key, search.chosen_settings[key]) for search in searches]
            sentences += [
                f"{variant}: the best {key_title(key)}"
                f"{f' of {ends.count(end)} of {len(searches)} searches' if len(searches) > 1 else ''} lies at the "
                f"{end} end of what was searched ({searched}); a wider space may do better."
                for end in ("lower", "upper")
                if end in ends
            ]
    return tuple(sentences)


def show_duration(seconds: float) -> str:
    """Return a time in the unit that suits it, such as "3.2 hours"."""
    for unit, length in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _counted(number: int, one: str, many: str = "") -> str:
    return f"1 {one}" if number == 1 else f"{number} {many or one + 's'}"
