"""Images made from Debian packages, for machines that reach Debian's archive but no registry.

An image is the root file system that mmdebstrap builds from the machine's own package sources (whatever
mirror or proxy those name), kept as a tarball under ``.cache/images``. Its file name carries a digest of
the recipe, so a changed recipe is a new tarball. Building takes about half a minute, importing into a
daemon a second or two.
"""

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devservices import CACHE, ServiceError

BUILD_TIMEOUT_S = 600.0
LOG_TAIL_LINES = 15


@dataclass(frozen=True)
class Image:
    """A recipe: the packages of one Debian release, and what is done to them.

    Attributes:
        name: The repository that contracts name, such as ``python``.
        tag: The tag that contracts name, such as ``3.11-slim``.
        release: The code name of the Debian release.
        packages: What is installed beside the essential packages.
        hooks: Shell commands, run with the root file system as ``$1`` before it is packed.
        changes: Dockerfile instructions for the image's configuration.
    """

    name: str
    tag: str
    release: str
    packages: tuple[str, ...]
    hooks: tuple[str, ...]
    changes: tuple[str, ...]

    @property
    def tarball(self) -> Path:
        """Where the built root file system is kept."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        return CACHE / "images" / f"{self.name}-{self.tag}-{digest}.tar"


PYTHON_IMAGE = Image(
    name="python",
    tag="3.11-slim",
    release="bookworm",
    packages=("python3", "python3.11"),
    hooks=(
        # the places where the original has them
        'for name in python python3 python3.11; do ln -s /usr/bin/python3.11 "$1/usr/local/bin/$name"; done',
        # a package manager's data is of no use without the package manager's network
        'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/log/*',
        'rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/info/* "$1"/usr/share/locale/*',
        # a machine's name and its name servers are not part of an image
        'rm -f "$1"/etc/hostname "$1"/etc/resolv.conf',
    ),
    changes=(
        "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ENV LANG=C.UTF-8",
        'CMD ["python3"]',
        "LABEL org.opencontainers.image.description=made-from-debian-packages",
    ),
)


def image_tarball(image: Image, root: list[str], say: Callable[[str], None]) -> Path:
    """Return the root file system of an image, built first if it is not there.

    Args:
        image: The recipe.
        root: The words that make a command run as root.
        say: Takes lines about the progress.

    Raises:
        ServiceError: It cannot be built; the message has the end of the builder's log.
    """
    target = image.tarball
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # somebody else may be building it
        if not target.exists():
            build(image, target, root, say)
    return target


def build(image: Image, target: Path, root: list[str], say: Callable[[str], None]) -> None:
    """Build a root file system and move it into its place."""
    if not shutil.which("mmdebstrap"):
        raise ServiceError("mmdebstrap not found: run scripts/system-packages test")
    partial = target.with_suffix(".partial")
    command = [
        *root,
        "mmdebstrap",
        "--variant=essential",
        "--format=tar",
        f"--include={','.join(image.packages)}",
    ]
    command += ['--aptopt=Acquire::Languages "none"', "--aptopt=Acquire::Retries 3"]
    command += [
        f"--dpkgopt=path-exclude=/usr/share/{directory}/*" for directory in ("doc", "man", "info", "locale")
    ]
    command += [f"--customize-hook={hook}" for hook in image.hooks]
    command += [image.release, str(partial), "-"]

    say(f"image: building {image.name}:{image.tag} from Debian's packages (about half a minute, once)")
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin
    assert process.stdout
    log: list[str] = []
    try:
        process.stdin.write(package_sources(image.release, root))
        process.stdin.close()
        for line in process.stdout:
            log.append(line.rstrip())
            if line.startswith("I: ") and line.rstrip().endswith("..."):
                say(f"image:   {line[3:].rstrip()}")
        status = process.wait(BUILD_TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if status != 0:
        partial.unlink(missing_ok=True)
        end = "\n".join(log[-LOG_TAIL_LINES:])
        raise ServiceError(f"mmdebstrap could not build {image.name}:{image.tag}:\n{end}")
    partial.replace(target)
    say(f"image: {image.name}:{image.tag} is built, {target.stat().st_size // 2**20} MiB")


def package_sources(release: str, root: list[str]) -> str:
    """Return apt sources for a Debian release, on the mirrors that this machine uses.

    Third-party sources of the machine are left out: an image consists of Debian's own packages.

    Raises:
        ServiceError: The machine has no Debian sources.
    """
    found = debian_sources(release)
    if not found:  # the lists are missing, as in freshly made containers
        subprocess.run([*root, "apt-get", "--quiet", "update"], check=False, capture_output=True)
        found = debian_sources(release)
    if not found:
        raise ServiceError("the machine has no apt sources of Debian: images are made from Debian's packages")
    return "\n".join(found) + "\n"


def debian_sources(release: str) -> list[str]:
    """Return one line for each of the machine's own Debian sources, asked of apt itself."""
    if not shutil.which("apt-get"):
        return []
    fields = "$(ORIGIN)|$(COMPONENT)|$(REPO_URI)|$(CODENAME)"
    answer = subprocess.run(
        ["apt-get", "indextargets", "--format", fields, "Identifier: Packages"],
        check=False,
        capture_output=True,
        text=True,
    )
    lines = []
    for target in answer.stdout.splitlines():
        origin, component, address, code_name = target.split("|")
        if (origin, component) == ("Debian", "main"):
            _, hyphen, pocket = code_name.partition("-")  # bookworm, bookworm-updates, bookworm-security
            lines.append(f"deb {address} {release}{hyphen}{pocket} main")
    return sorted(set(lines))
