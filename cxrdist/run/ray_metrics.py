"""Our own metrics among Ray's: fold jobs by state, and epoch and speed of those in work."""

from ray.util.metrics import Gauge

from cxrdist.run.board import Board, Event
from cxrdist.study.queue import State

JOBS, EPOCH, SPEED = "cxrdist_fold_jobs", "cxrdist_epoch", "cxrdist_images_per_second"


class MeasuredBoard(Board):
    """A board in a Ray actor, whose events are metrics, too: Ray's agent of the node exports them to Prometheus."""

    def _tell(self, event: Event) -> None:
        super()._tell(event)
        states = [entry.state for entry in self._queue.entries.values()]
        for state in State:
            self._gauge(JOBS, "Units of a study by state.", ("state",)).set(states.count(state), {"state": str(state)})
        if event.kind == "epoch":
            # Prometheus has a label `job` of its own.
            self._gauge(EPOCH, "Epoch of a fold job.", ("fold_job",)).set(event.epoch, {"fold_job": event.key})
            speed = dict(event.measures).get("images_per_second")
            if speed is not None:
                gauge = self._gauge(SPEED, "Images trained and validated on each second, by lane.", ("lane",))
                gauge.set(speed, {"lane": event.lane})

    def _gauge(self, name: str, description: str, tags: tuple[str, ...]) -> Gauge:
        # Made in the actor: a gauge belongs to its process.
        gauges = self.__dict__.setdefault("_gauges", {})
        if name not in gauges:
            gauges[name] = Gauge(name, description=description, tag_keys=tags)
        gauge: Gauge = gauges[name]
        return gauge
