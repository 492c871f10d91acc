"""What the status page shows of Redis and the workers."""

from backend.cluster.monitor import ClusterState
from backend.errors import Reason
from backend.web.status.formatting import format_ms
from backend.web.status.view import ClusterView, Field, Problem, Queue


def cluster_view(state: ClusterState, outage: str = "") -> ClusterView:
    """Return a snapshot of the cluster as text; ``outage`` says why Redis cannot be reached, if it cannot.

    >>> cluster_view(ClusterState(), "Redis cannot be reached").headline
    'Redis does not answer'
    """
    if outage:
        problem = Problem("Redis", outage, Reason.STORE_UNAVAILABLE.remedy)
        return ClusterView(problems=(problem,), headline="Redis does not answer")
    if not state.is_known:
        return ClusterView((Field("workers", "not looked yet"),))
    problems = []
    if not state.workers:
        text = "none is running that could encode an image"
        problems.append(Problem("workers", text, "start one with python -m backend worker"))
    if state.other_models:
        names = ", ".join(state.other_models)
        problems.append(Problem("workers", f"with other weights: {names}", "give all of them one PADDLE_SAM_WEIGHTS"))
    rows = (
        Field("Redis answers in", format_ms(1000 * state.round_trip_s)),
        Field("encoded by all workers", str(state.encodes)),
        Field("fetched by all workers", str(state.fetches)),
        Field("given up by all workers", str(state.failures)),
    )
    queues = tuple(
        Queue(queue.name, queue.depth, format_ms(1000 * queue.age_s) if queue.depth else "") for queue in state.queues
    )
    headline = "" if state.workers else "no worker is running"
    return ClusterView(rows, state.worker_names, queues, tuple(problems), headline)
