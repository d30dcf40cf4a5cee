"""The control plane with a worker, as commands run it."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from praxis_sdk.cli.control_plane import kinds_of
from praxis_sdk.control.notifiers.configuration import from_environment
from praxis_sdk.control.plane import ControlPlane, PlaneOptions, offer_of_this_host
from praxis_sdk.control.telemetry import Telemetry

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.control.prometheus import ControlMetrics


def worker_plane(
    control: Control,
    *,
    slots: int | None = None,
    cpu_cores: float | None = None,
    memory_mb: int | None = None,
    metrics: ControlMetrics | None = None,
) -> ControlPlane:
    """Make a control plane whose worker offers this host; nothing runs before it is entered.

    Args:
        control: what the command works with.
        slots: attempts at once at most; None: many per core.
        cpu_cores, memory_mb: what is offered in place of what this host has.
        metrics: counts what happens here; None: nobody counts.

    Raises:
        ValidationError: `PRAXIS_NOTIFY` is not acceptable.
    """
    offer = offer_of_this_host(slots=slots)
    capacity = offer.capacity
    if cpu_cores is not None:
        capacity = dataclasses.replace(capacity, cpu_cores=cpu_cores)
    if memory_mb is not None:
        capacity = dataclasses.replace(capacity, memory_mb=memory_mb)
    options = PlaneOptions(
        worker=dataclasses.replace(offer, capacity=capacity),
        notifiers=from_environment(os.environ),
        metrics=metrics,
        telemetry=Telemetry.from_environment(os.environ),
    )
    return ControlPlane(
        control.store, kinds_of(control.home), options, clock=control.clock, liveness=control.liveness
    )
