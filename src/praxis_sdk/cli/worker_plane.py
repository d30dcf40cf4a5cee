"""The control plane with a worker, as commands run it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from praxis_sdk.cli.control_plane import kinds_of
from praxis_sdk.control.observe.notifiers.configuration import from_environment
from praxis_sdk.control.observe.telemetry import Telemetry
from praxis_sdk.control.plane import ControlPlane, PlaneOptions, offer_of_this_host

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.control.observe.prometheus import ControlMetrics


def worker_plane(
    control: Control,
    *,
    slots: int | None = None,
    most_slots: int = 0,
    offered: Mapping[str, Any] = MappingProxyType({}),
    job_limits: Sequence[str] = (),
    metrics: ControlMetrics | None = None,
    stalled: Callable[[float], None] | None = None,
) -> ControlPlane:
    """Make a control plane whose worker offers this host; nothing runs before it is entered.

    Args:
        control: what the command works with.
        slots: attempts at once at most; None: many per core.
        most_slots: how many they may become where they are used up; 0: they stay.
        offered: amounts in place of what this host has, by the fields of `Resources`.
        job_limits: the most that jobs may ask for, `NAME=VALUE` each.
        metrics: counts what happens here; None: nobody counts.
        stalled: as in `PlaneOptions`.

    Raises:
        ValidationError: `PRAXIS_NOTIFY` is not acceptable.
    """
    offer = offer_of_this_host(slots=slots)
    options = PlaneOptions(
        worker=dataclasses.replace(offer, capacity=dataclasses.replace(offer.capacity, **offered)),
        notifiers=from_environment(os.environ),
        autoscale_slots=most_slots,
        metrics=metrics,
        telemetry=Telemetry.from_environment(os.environ),
        stalled=stalled,
    )
    kinds = kinds_of(control.home, metrics.jobs if metrics is not None else None, job_limits)
    return ControlPlane(control.store, kinds, options, clock=control.clock, liveness=control.liveness)
