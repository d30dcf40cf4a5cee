"""Egress: what a job with a network grant may reach, and the account of what it reached (spec 3, section 5.3).

    job -- HTTP_PROXY --> listening socket inside its network namespace
                              |  its descriptor, handed out
                              v
                          EgressProxy, outside: granted? -> resolve -> public? -> connect -> same name in TLS? -> relay

Theory of operation. The job's network namespace has nothing but a loopback device, and on it one listening
socket whose descriptor is the proxy's. So the only way out is a connection that the proxy accepts, and everything
else is refused by the kernel. The proxy believes nothing that the job says twice: the host and port asked for
must be in the grant, the name is resolved here, the address is checked and that address is connected to (a name
that resolves differently the next time gains nothing), and a TLS connection must name the granted host in its
ClientHello. What it cannot see is what is said inside TLS: a host that serves many names can be asked for another
of them there.

Every use and every refusal is recorded as a `NetworkUse`; `heads`, `client_hello` and `addresses` are pure.
"""

from praxis_sdk.jobs.egress.policy import EgressPolicy
from praxis_sdk.jobs.egress.proxy import EgressProxy, egress_for, proxy_variables

__all__ = ["EgressPolicy", "EgressProxy", "egress_for", "proxy_variables"]
