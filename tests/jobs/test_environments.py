"""Environments are built for real: virtual environments, pip, local wheels, and the sandbox for first imports."""

import base64
import hashlib
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.jobs.environments.definition import requirement_lines, shipped_definitions
from praxis_sdk.jobs.environments.store import (
    Environment,
    EnvironmentInUse,
    EnvironmentMissing,
    EnvironmentStore,
)

DEADLINE_S = 60.0

FAKE_FONT_MANAGER = """
import json, os
def findSystemFonts(paths=None, fontext="ttf"):
    return [f"{path}/own.{fontext}" for path in paths] if paths else [f"/usr/share/fonts/hosts.{fontext}"]
class FontManager:
    __version__ = "3.9.1"
    def __init__(self):
        self.lists = {"afm": [], "ttf": []}
        for ext in ("afm", "ttf"):
            for path in [*findSystemFonts(["b", "a"], ext), *findSystemFonts(fontext=ext)]:
                self.lists[ext].append({"fname": path})
def json_dump(manager, path):
    with open(path, "w") as file:
        json.dump({"afmlist": manager.lists["afm"], "ttflist": manager.lists["ttf"]}, file)
folder = os.environ["MPLCONFIGDIR"]
"""


class Clock:
    """A clock that moves one minute with every look."""

    def __init__(self) -> None:
        self._moment = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self._moment += timedelta(minutes=1)
        return self._moment


def make_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str], *, program: str | None = None
) -> Path:
    """Write a wheel: modules by path, and perhaps a console script that calls `module:function`."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    members = dict(files) | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if program:
        members[f"{info}/entry_points.txt"] = f"[console_scripts]\n{name} = {program}\n"
    lines = []
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
            lines.append(f"{member},sha256={digest},{len(text.encode())}")
        archive.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,", ""]))
    return path


@pytest.fixture(scope="module")
def greetings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of a package in two versions; nobody changes the folder."""
    folder = tmp_path_factory.mktemp("greetings")
    body = "WORD = 'hello'\ndef main():\n    print(WORD)\n"
    make_wheel(folder, "greeting", "1.0", {"greeting.py": body}, program="greeting:main")
    make_wheel(folder, "greeting", "2.0", {"greeting.py": body.replace("hello", "good day")})
    return folder


@pytest.fixture
def wheels(tmp_path: Path, greetings: Path) -> Path:
    """The same wheels, and room for more."""
    return Path(shutil.copytree(greetings, tmp_path / "wheels"))


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> EnvironmentStore:
    """A store with one environment, `words`, for tests that change nothing in it."""
    return EnvironmentStore(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def words(shared_store: EnvironmentStore, greetings: Path) -> Environment:
    umask = os.umask(0o077)  # a careful user's
    try:
        return build(shared_store, greetings)
    finally:
        os.umask(umask)


@pytest.fixture
def store(tmp_path: Path) -> EnvironmentStore:
    return EnvironmentStore(tmp_path / "home", now=Clock())


def build(store: EnvironmentStore, wheels: Path, requirements: str = "greeting==1.0") -> Environment:
    return store.build("words", requirements, find_links=wheels)


def run(environment: Environment, code: str) -> str:
    done = subprocess.run(
        [*environment.command, "-c", code],
        env=environment.variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    return done.stdout.strip()


def files(environment: Environment) -> list[Path]:
    return [path for path in environment.prefix.rglob("*") if path.is_file() and not path.is_symlink()]


def rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def leftovers(store: EnvironmentStore) -> list[str]:
    return [name for name in os.listdir(store.folder) if name.startswith(".") and name != ".lock"]


def test_base_is_an_interpreter_with_nothing_installed(store: EnvironmentStore) -> None:
    lines: list[str] = []

    base = store.build("base", say=lines.append)

    assert base.env_version.startswith("base-")
    assert base.packages == ()
    assert base.freeze() == ""
    assert run(base, "import sys; print(sys.prefix, sys.version.split()[0])") == (
        f"{base.prefix} {base.python_version}"
    )
    assert run(base, "import importlib.metadata as m; print(len(list(m.distributions())))") == "0"
    assert lines[0] == "creating the environment"
    assert lines[-1] == f"{base.env_version} is ready"
    assert store.get("base") == store.get(base.env_version) == base
    assert store.verify(base) == ()


def test_packages_are_installed_and_recorded(store: EnvironmentStore, wheels: Path) -> None:
    environment = build(store, wheels, "greeting")  # not pinned: the newest there is, and that is recorded

    assert environment.freeze() == "greeting==2.0\n"
    assert environment.site_packages == environment.prefix / (
        f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    )
    assert run(environment, "import greeting; print(greeting.WORD)") == "good day"
    assert store.list() == (environment,)


def test_variables_make_runs_repeatable(store: EnvironmentStore) -> None:
    base = store.build("base", preload=[])

    assert base.variables["TZ"] == "UTC"
    assert base.variables["PATH"].startswith(f"{base.prefix}/bin:")
    assert len({run(base, "print(hash('a'), hash('b'))") for _ in range(3)}) == 1


def test_same_content_has_the_same_version_wherever_and_whenever_it_is_built(
    store: EnvironmentStore, greetings: Path, words: Environment
) -> None:
    again = build(store, greetings)

    assert again.env_version == words.env_version
    assert again.prefix != words.prefix
    assert again.created_at != words.created_at


def test_another_content_has_another_version_and_the_older_one_stays(
    store: EnvironmentStore, wheels: Path
) -> None:
    older = build(store, wheels, "greeting==1.0")
    newer = build(store, wheels, "greeting==2.0")

    assert older.env_version != newer.env_version
    assert store.get("words") == newer
    assert run(store.get(older.env_version), "import greeting; print(greeting.WORD)") == "hello"
    assert store.verify(older) == ()
    assert build(store, wheels, "greeting==1.0") == older
    assert store.get("words") == older
    assert store.list() == (older, newer)


def test_modules_to_preload_are_part_of_the_version(store: EnvironmentStore, wheels: Path) -> None:
    without = store.build("words", "greeting==1.0", find_links=wheels)
    with_preload = store.build("words", "greeting==1.0", preload=["greeting"], find_links=wheels)

    assert without.env_version != with_preload.env_version
    assert store.get("words").preload == ("greeting",)


def test_module_that_cannot_be_imported_is_refused(store: EnvironmentStore, wheels: Path) -> None:
    with pytest.raises(ValidationError, match=r"cannot import 'absent': ModuleNotFoundError"):
        store.build("words", "greeting==1.0", preload=["absent"], find_links=wheels)

    assert store.list() == ()
    assert leftovers(store) == []


def test_environment_is_read_only_and_readable_for_everybody(words: Environment) -> None:
    for path in [words.prefix, *words.prefix.rglob("*")]:
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            assert mode & 0o222 == 0, path
            assert mode & 0o444 == 0o444, path


def test_importing_changes_nothing(shared_store: EnvironmentStore, words: Environment) -> None:
    run(words, "import greeting")

    assert shared_store.verify(words) == ()
    compiled = words.site_packages / "__pycache__" / f"greeting.{sys.implementation.cache_tag}.pyc"
    assert compiled.read_bytes()[:4] == importlib.util.MAGIC_NUMBER
    assert compiled.read_bytes()[4:8] == b"\x01\0\0\0"  # PEP 552: by hash, and never checked


def test_nothing_remembers_where_it_was_built(words: Environment, greetings: Path) -> None:
    for path in files(words):
        content = path.read_bytes()
        assert b".building-" not in content, path
        assert os.fsencode(greetings) not in content, path
    assert run(words, "import greeting; print(greeting.main.__code__.co_filename)") == str(
        words.site_packages / "greeting.py"
    )


def test_programs_start_the_interpreter_beside_them(words: Environment, tmp_path: Path) -> None:
    elsewhere = tmp_path / "a place with spaces"
    elsewhere.symlink_to(words.prefix)

    for prefix in (words.prefix, elsewhere):
        done = subprocess.run(
            [prefix / "bin" / "greeting"], capture_output=True, text=True, check=True, timeout=DEADLINE_S
        )
        assert done.stdout == "hello\n"


def test_no_code_of_a_package_runs_on_the_host_while_building(
    store: EnvironmentStore, wheels: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    code = f"open({str(marker)!r}, 'w').close()"
    body = f"try:\n    {code}\nexcept OSError:\n    pass\n"
    make_wheel(wheels, "intruder", "1.0", {"intruder.pth": f"import {code}\n", "intruder.py": body})

    environment = store.build("words", "intruder", preload=["intruder"], find_links=wheels)

    assert store.verify(environment) == ()
    assert not marker.exists()


def test_fonts_of_matplotlib_are_found_without_a_search(store: EnvironmentStore, wheels: Path) -> None:
    make_wheel(
        wheels,
        "matplotlib",
        "1.0",
        {"matplotlib/__init__.py": "", "matplotlib/font_manager.py": FAKE_FONT_MANAGER},
    )
    environment = store.build("plots", "matplotlib", find_links=wheels)
    fonts = environment.prefix / "share/praxis/matplotlib/fontlist-v3.9.1.json"

    assert fonts.read_text() == (
        '{"afmlist":[{"fname":"a/own.afm"},{"fname":"b/own.afm"}],'
        '"ttflist":[{"fname":"a/own.ttf"},{"fname":"b/own.ttf"}]}'
    )
    folder = environment.prefix.parent / "config"
    done = subprocess.run(
        [*environment.command, "-c", "import os, sys; print(os.readlink(sys.argv[1]))", folder / fonts.name],
        env={**environment.variables, "MPLCONFIGDIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    assert done.stdout.strip() == str(fonts)
    assert "svg.hashsalt" in Path(environment.variables["MATPLOTLIBRC"]).read_text()


def test_hashes_are_enforced(store: EnvironmentStore, wheels: Path) -> None:
    wheel = wheels / "greeting-1.0-py3-none-any.whl"
    right = f"greeting==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    wrong = right.replace(right[-9:-1], "00000000")

    with pytest.raises(PlatformError, match="pip could not install"):
        build(store, wheels, wrong)
    assert store.list() == ()
    assert leftovers(store) == []

    assert build(store, wheels, right).freeze() == "greeting==1.0\n"


def test_missing_package_is_named_and_nothing_is_left(store: EnvironmentStore, wheels: Path) -> None:
    with pytest.raises(PlatformError, match="absent-package"):
        build(store, wheels, "absent-package")

    assert store.list() == ()
    assert leftovers(store) == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url=example",
        "-r other.txt",
        "-e .",
        "./folder",
        "package.whl/../x",
        "name @ file:x",
        "name @ git+ssh:x",
        "name --install-option=x",
        "name --hash=md5:00",
        "$(id)",
        "name==1 \\",
    ],
)
def test_requirements_hold_nothing_but_requirements(line: str) -> None:
    with pytest.raises(ValidationError, match="line 2"):
        requirement_lines(f"# comment\n{line}")


def test_requirements_are_read_as_pip_reads_them() -> None:
    text = """# a

name[extra,more]>=1,!=1.5 ; python_version < '3.12' # why
other==2 \\
    --hash=sha256:00 \\
  --hash=sha256:01
"""

    assert requirement_lines(text) == [
        "name[extra,more]>=1,!=1.5 ; python_version < '3.12'",
        "other==2 --hash=sha256:00 --hash=sha256:01",
    ]


@pytest.mark.parametrize("name", ["", "Words", "../x", "a b", "-a", "a-", "a--b", "a" * 65, "x-0123456789ab"])
def test_names_are_plain(store: EnvironmentStore, name: str) -> None:
    with pytest.raises(ValidationError):
        store.build(name, "")


def test_unknown_environment_is_missing(store: EnvironmentStore) -> None:
    for name in ("absent", "absent-0123456789ab", "../home", ".lock"):
        with pytest.raises(EnvironmentMissing, match="there are: none"):
            store.get(name)
    with pytest.raises(ValidationError, match="needs requirements"):
        store.build("absent")


def test_what_is_no_python_is_refused(store: EnvironmentStore) -> None:
    with pytest.raises(ValidationError, match=r"not a Python of 3\.11"):
        store.build("words", "", python="/bin/true")


@pytest.mark.parametrize("victim", ["greeting.py", "pyc", "RECORD", "environment.json", "manifest.json"])
def test_flipped_byte_is_found(shared_store: EnvironmentStore, words: Environment, victim: str) -> None:
    path = next(path for path in files(words) if path.name.endswith(victim))
    content, mode = path.read_bytes(), path.stat().st_mode
    place = content.index(b"hello") if b"hello" in content else len(content) // 2
    rewrite(path, content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])

    assert shared_store.verify(words) != ()

    rewrite(path, content)
    path.chmod(mode)
    assert shared_store.verify(words) == ()


def test_added_and_missing_files_are_found(store: EnvironmentStore, wheels: Path) -> None:
    environment = build(store, wheels)
    environment.site_packages.chmod(0o755)
    (environment.site_packages / "json.py").write_text("")
    (environment.site_packages / "greeting.py").unlink()

    problems = store.verify(environment)

    packages = environment.site_packages.relative_to(environment.prefix)
    assert problems == (f"{packages}/greeting.py: is missing", f"{packages}/json.py: was added")


def test_description_of_another_environment_is_found(
    shared_store: EnvironmentStore, words: Environment
) -> None:
    description = words.prefix / "environment.json"
    content = description.read_bytes()
    rewrite(description, content.replace(b'"preload": []', b'"preload": ["os"]'))

    assert shared_store.verify(words) == ("environment.json: does not belong to this content",)

    rewrite(description, content)


def test_building_again_replaces_what_is_damaged(store: EnvironmentStore, wheels: Path) -> None:
    environment = build(store, wheels)
    rewrite(environment.site_packages / "greeting.py", b"WORD = 'damaged'\n")

    again = build(store, wheels)

    assert again.env_version == environment.env_version
    assert store.verify(again) == ()
    assert leftovers(store) == []


def test_damaged_description_is_not_listed_and_says_so(store: EnvironmentStore, wheels: Path) -> None:
    environment = build(store, wheels)
    rewrite(environment.prefix / "environment.json", b"{")

    assert store.list() == ()
    with pytest.raises(PlatformError, match="description is damaged"):
        store.get("words")


def test_crashed_build_is_not_listed_and_cleared_by_the_next(store: EnvironmentStore, wheels: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from praxis_sdk.jobs.environments.store import EnvironmentStore
def say(line):
    if line.startswith("compiling"):
        print("here", flush=True)
        sys.stdin.read()
EnvironmentStore(Path({str(store.folder.parent)!r})).build(
    "words", "greeting==1.0", say=say, find_links=Path({str(wheels)!r}))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "here\n"
        assert store.list() == ()
        assert len(leftovers(store)) == 1

        other = store.build("base", preload=[])
        assert len(leftovers(store)) == 1  # a build that lives is left alone

        builder.send_signal(signal.SIGKILL)
    assert store.list() == (other,)
    with pytest.raises(EnvironmentMissing):
        store.get("words")

    environment = build(store, wheels)

    assert store.verify(environment) == ()
    assert leftovers(store) == []


def test_builds_at_the_same_time_agree(tmp_path: Path, wheels: Path) -> None:
    start = threading.Barrier(3)

    def one(requirements: str) -> Environment:
        start.wait(DEADLINE_S)
        return build(EnvironmentStore(tmp_path / "home"), wheels, requirements)

    with ThreadPoolExecutor(3) as pool:
        first, second, other = pool.map(one, ["greeting==1.0", "greeting==1.0", "greeting==2.0"])

    store = EnvironmentStore(tmp_path / "home")
    assert first.env_version == second.env_version != other.env_version
    assert {one.env_version for one in store.list()} == {first.env_version, other.env_version}
    assert all(store.verify(one) == () for one in store.list())
    assert leftovers(store) == []


def test_environment_in_use_is_not_removed(store: EnvironmentStore, wheels: Path) -> None:
    environment = build(store, wheels)

    with store.hold(environment), store.hold(environment):
        with pytest.raises(EnvironmentInUse, match=environment.env_version):
            store.remove(environment)
        assert run(environment, "import greeting; print(greeting.WORD)") == "hello"
    store.remove(environment)

    assert not environment.prefix.exists()
    assert leftovers(store) == []
    with pytest.raises(EnvironmentMissing):
        store.get("words")
    with pytest.raises(EnvironmentMissing):
        store.remove(environment)
    with pytest.raises(EnvironmentMissing), store.hold(environment):
        pass


def test_name_goes_back_to_the_newest_that_is_left(store: EnvironmentStore, wheels: Path) -> None:
    older = build(store, wheels, "greeting==1.0")
    newer = build(store, wheels, "greeting==2.0")

    store.remove(newer)
    assert store.get("words") == older


def test_ensure_builds_a_shipped_environment_once(store: EnvironmentStore) -> None:
    lines: list[str] = []

    first = store.ensure("base", say=lines.append)
    built = len(lines)
    again = store.ensure("base", say=lines.append)

    assert first == again
    assert built == len(lines) > 0
    assert store.ensure(first.env_version) == first
    with pytest.raises(EnvironmentMissing):
        store.ensure("words")


def test_ensure_repairs_a_damaged_description(store: EnvironmentStore) -> None:
    base = store.ensure("base")
    rewrite(base.prefix / "environment.json", b"{}")

    assert store.ensure("base").env_version == base.env_version


def test_sandbox_is_shown_only_what_is_not_the_systems(store: EnvironmentStore) -> None:
    base = store.build("base", preload=[])

    system = base.base_prefix == Path("/usr")
    assert base.bind_paths == ((base.prefix,) if system else (base.prefix, base.base_prefix))


def test_shipped_definitions_are_pinned_and_name_no_address() -> None:
    shipped = shipped_definitions()

    assert set(shipped) == {"base", "science"}
    science = shipped["science"]
    names = {line.split("==")[0] for line in requirement_lines(science.requirements)}
    assert names >= {"numpy", "pandas", "scipy", "matplotlib"}
    assert all("==" in line and "--hash=sha256:" in line for line in requirement_lines(science.requirements))
    assert "matplotlib.pyplot" in science.preload
    for definition in shipped.values():
        assert "://" not in definition.requirements
        assert definition.description
