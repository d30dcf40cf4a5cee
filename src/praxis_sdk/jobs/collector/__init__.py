"""The collector: what a job leaves is read by a process that can be killed.

What lies in the folder of a dead sandbox is untrusted: a result that takes a gigabyte to parse, a million files, holes
of terabytes. Whoever reads it can be made to compute for minutes, and one event loop serves thousands of jobs. So the
executor reads nothing of it but a short result in an otherwise empty folder, which takes less than a thread would.

    executor --harvest, wishes--> collector --fork--> one child per job --answer--> executor

The collector (`process`) is a clean interpreter that has everything loaded, is confined (`confinement`: no network, no
file system, no capability but reading, a system-call filter) and never looks at untrusted data itself. It forks a child
per job, one of them ahead of need, so that a job seldom waits for a fork. The child has limits of its own for memory
and processor time, reads the harvest by descriptor, writes its answer into a memory file, and ends. A child that is
over its limits is killed by the kernel, one that hangs by the collector when the executor says so; only the wait status
counts as its end. What is in the answer is bounded, and checked again where it matters: names are, and bytes are
hashed again on their way into the store.

`reading` understands a result, `messages` is what goes between the two, `client` the executor's side.
"""

from praxis_sdk.jobs.collector.client import Collected, Collector
from praxis_sdk.jobs.collector.messages import Wanted
from praxis_sdk.jobs.collector.reading import LeftResult

__all__ = ["Collected", "Collector", "LeftResult", "Wanted"]
