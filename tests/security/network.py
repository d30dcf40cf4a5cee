"""There is no network; what a job tries to reach does not answer, and this host has no name."""

import socket

from .case import CALL, NO_RESULT, OK, RAISES, Case, number

_ADDRESSES = (
    "127.0.0.1", "10.0.0.1", "192.168.0.1", "172.17.0.1", "169.254.169.254", "169.254.170.2", "100.100.100.200",
    "1.1.1.1", "0.0.0.0", "::1", "fe80::1", "fd00:ec2::254", "2606:4700:4700::1111", "::ffff:169.254.169.254",
)  # fmt: skip

_FAMILIES = {
    "netlink": (16, 3, 0), "packet": (17, 3, 0), "vsock": (40, 1, 0), "crypto": (38, 5, 0), "xdp": (44, 3, 0),
    "bluetooth": (31, 3, 1), "can": (29, 3, 1), "tipc": (30, 1, 0), "rds": (21, 5, 0), "key": (15, 3, 2),
    "kcm": (41, 5, 0), "smc": (43, 1, 0), "x25": (9, 5, 0), "nfc": (39, 5, 0), "phonet": (35, 2, 0),
}  # fmt: skip

_GRANT = ["data.example.org"]
_DOOR = """
import os, socket
from urllib.parse import urlsplit
door = urlsplit(os.environ['HTTPS_PROXY'])
def knock():
    return socket.create_connection((door.hostname, door.port), timeout=10)
def ask(head):
    s = knock(); s.sendall(head)
    return int(s.recv(4096).split()[1])
"""


def _tcp(address: str) -> Case:
    family = "AF_INET6" if ":" in address else "AF_INET"
    code = f"import socket; s = socket.socket(socket.{family}); s.settimeout(3); s.connect(({address!r}, 80))"
    return Case(f"nothing answers at {address}", code, RAISES)


CASES = [
    *(_tcp(address) for address in _ADDRESSES),
    Case(
        "no datagram leaves",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'secret', ('8.8.8.8', 53))",
        RAISES,
    ),
    Case(
        "no name is resolved",
        "import socket; socket.getaddrinfo('example.org', 443)",
        RAISES,
        says="gaierror",
    ),
    Case(
        "no broadcast or multicast leaves",
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(1, 6, 1)\n"
        "s.sendto(b'x', ('255.255.255.255', 9))",
        RAISES,
    ),
    Case(
        "the loopback device cannot be raised",
        "import fcntl, socket, struct\n"
        "fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack('16sh14x', b'lo', 1))",
        RAISES,
    ),
    Case(
        "a tunnel cannot be made",
        "import os; os.open('/dev/net/tun', os.O_RDWR)",
        RAISES,
    ),
    *(
        Case(
            f"a {name} socket is refused",
            f"{CALL}\ncall({number('socket')}, {family}, {kind}, {protocol})",
            RAISES,
            says="EAFNOSUPPORT",
        )
        for name, (family, kind, protocol) in _FAMILIES.items()
    ),
    Case(
        "a raw socket is refused", "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", RAISES
    ),
    Case(
        "a raw socket of IPv6 is refused",
        "import socket; socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)",
        RAISES,
    ),
    Case(
        "a ping socket leads nowhere",
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1); s.sendto(b'\\x08' + bytes(7), ('127.0.0.1', 0))",
        RAISES,
    ),
    Case("marking packets is refused", "import socket; socket.socket().setsockopt(1, 36, 7)", RAISES),
    Case(
        "rules of the packet filter are refused",
        "import socket; socket.socket().setsockopt(0, 64, bytes(100))",
        RAISES,
    ),
    Case(
        "an abstract socket is its own",
        "import socket\n"
        "a = socket.socket(socket.AF_UNIX); a.bind('\\0praxis-hostile'); a.listen()\n"
        "b = socket.socket(socket.AF_UNIX); b.connect('\\0praxis-hostile')\n"
        "open('/proc/net/unix').read().count('@praxis-hostile') >= 1",
        OK,
        outputs=True,
    ),
    Case(
        "no socket of the host can be seen",
        "[len(open(f'/proc/net/{name}').readlines()) - 1 for name in ('tcp', 'udp', 'unix', 'packet', 'tcp6')]",
        OK,
        outputs=[0, 0, 0, 0, 0],
    ),
    Case(
        "the credentials on a socket are its own",
        "import socket, struct\na, b = socket.socketpair()\nstruct.unpack('3i', a.getsockopt(1, 17, 12))[1:]",
        OK,
        outputs=[1000, 1000],
    ),
    Case(
        "names of this host are synthetic",
        "import os, socket\n"
        "[os.uname().nodename, socket.gethostname(), open('/etc/hostname').read().strip(),\n"
        " open('/proc/sys/kernel/hostname').read().strip(), open('/etc/passwd').read().count('\\n')]",
        OK,
        outputs=["sandbox", "sandbox", "sandbox", "sandbox", 2],
        lacks=(socket.gethostname(),) if len(socket.gethostname()) > 4 else (),
    ),
    Case(
        "control groups name nothing of the host",
        "print(open('/proc/self/cgroup').read())",
        OK,
        lacks=("praxis-", "docker", "kubepods", ".slice"),
    ),
    Case(
        "addresses of the kernel are hidden",
        "any(int(line.split()[0], 16) for line in open('/proc/kallsyms').readlines()[:100])",
        (OK, RAISES),
        outputs=False,
    ),
    # -- with a grant: one door, and everything at it is on record ---------------------------------------------------
    *(
        Case(
            f"the door does not lead to {host}",
            {
                "code": f"{_DOOR}\nask(b'CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n\\r\\n')",
                "network": _GRANT,
            },
            OK,
            outputs=403,
            audited=(host,),
        )
        for host, target in (
            ("169.254.169.254", "169.254.169.254:80"),
            ("127.0.0.1", "127.0.0.1:22"),
            ("localhost", "localhost:443"),
            ("data.example.org", "data.example.org:22"),
            ("evil.example.org", "evil.example.org:443"),
        )
    ),
    Case(
        "the door does not lead home by another form of the request",
        {
            "code": f"{_DOOR}\nask(b'GET http://10.0.0.1/x HTTP/1.1\\r\\nHost: data.example.org\\r\\n\\r\\n')",
            "network": _GRANT,
        },
        OK,
        audited=("10.0.0.1",),
    ),
    Case(
        "there is no way past the door",
        {"code": "import socket; socket.create_connection(('1.1.1.1', 443), timeout=3)", "network": _GRANT},
        RAISES,
    ),
    Case(
        "the door cannot be taken over",
        {
            "code": "import socket\n"
            "s = socket.socket(); s.setsockopt(1, 2, 1); s.setsockopt(1, 15, 1)\n"
            "s.bind(('127.0.0.1', 3128)); s.listen()",
            "network": _GRANT,
        },
        RAISES,
    ),
    Case(
        "rubbish at the door does no harm",
        {
            "code": f"{_DOOR}\n"
            "for size in (0, 1, 100, 1 << 20):\n"
            "    for _ in range(20):\n"
            "        s = knock()\n"
            "        try: s.sendall(os.urandom(size)); s.close()\n"
            "        except OSError: pass\n"
            "1",
            "network": _GRANT,
        },
        OK,
        outputs=1,
    ),
    Case(
        "who stands silent in the door does not stay behind",
        {
            "code": f"{_DOOR}\nheld = [knock() for _ in range(60)]\n"
            "if os.fork() == 0:\n    os.setsid()\n    while True: pass\nos._exit(0)",
            "network": _GRANT,
        },
        NO_RESULT,
    ),
]
