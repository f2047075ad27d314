"""Checks, tests and builds: ``nox --list`` lists the sessions."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "typing", "tests", "docs_examples"]
# The tests run on the installed Pythons: nothing is downloaded, and only the current one is required.
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
COVERAGE_DATA = ROOT / ".nox"
DOCS_EXAMPLES = "tests/test_docs_examples.py"
INTERRUPTS = "tests/test_interrupts.py"
SIMULATOR = ("tests/sim", "tests/explore")
# What is tested of the installed wheel.
INSTALLED = [
    f"tests/test_{name}.py" for name in ("exports", "public_members", "module_map", "services", "dtls", "command_line")
]
# Sessions of their own run the others, on the current Python (pytest --markers).
QUICK = ("-m", "not long and not programs")
VARIED = ("-m", "(not long or varied) and not programs")
# The schemas of the files that GitHub reads.
GITHUB_FILES = {
    "workflows/*.yml": "github-workflows",
    "ISSUE_TEMPLATE/*.yml": "github-issue-forms",
    "dependabot.yml": "dependabot",
}
# The source distribution lacks some of these. Users see the first ones.
SEEN, OTHERS = (
    [path for path in paths if (ROOT / path).exists()]
    for paths in (("trio_dgram", "typing_tests", "examples"), ("tests", "benchmarks", "noxfile.py"))
)


PURE = {"TRIO_DGRAM_PURE": "1"}
"""The environment in which the package is built, and runs, without the compiled layer."""
CURRENT = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The Python that runs nox."""


def pythons() -> list[str]:
    """Return the versions to test on, the oldest first, always including the current one."""
    supported = nox.project.python_versions(PYPROJECT)
    return supported if CURRENT in supported else [*supported, CURRENT]


def show_pyenv_versions(versions: list[str]) -> None:
    """Make every one of these versions that pyenv has installed visible to nox."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    names = [path.name for version in versions for path in pyenv.glob(f"versions/{version}.*")]
    if names:
        os.environ.setdefault("PYENV_VERSION", ":".join(names))


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


def without(*paths: str) -> list[str]:
    """Return the options that make pytest ignore these paths."""
    return [f"--ignore={path}" for path in paths]


def run(session: nox.Session, program: str, *args: str) -> None:
    """Run a program of the session's own environment or, if it has none, of the session ``environment``."""
    path = session.bin_paths[0] if session.bin_paths else str(SHARED)
    # The tests start programs of the package by their names.
    session.env["PATH"] = os.pathsep.join([path, os.environ["PATH"]])
    session.run(str(Path(path) / program), *args)


def run_tests(session: nox.Session, *args: str) -> None:
    """Run the tests without coverage, which doubles the time they take."""
    run(session, "pytest", *args, *session.posargs)


def cover_tests(session: nox.Session, *args: str) -> None:
    """Run the tests in this checkout and store their coverage for the session ``coverage``."""
    data_file = COVERAGE_DATA / f".coverage.{session.name}"
    run(session, "coverage", "run", f"--data-file={data_file}", "-m", "pytest", *args, *session.posargs)


PYTHONS = pythons()
PYTHON_OF_LOWEST = next((version for version in PYTHONS if version != CURRENT), None)
# QUIC uses private names of aioquic, so its lowest version is tested too.
LOWEST = [
    re.sub(r">=([^,]+).*", r"==\1", requirement)
    for requirement in (*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"]["quic"])
]
SHARED = ROOT / ".nox" / "environment" / ("Scripts" if os.name == "nt" else "bin")
SHARES_ENVIRONMENT: dict[str, Any] = {"requires": ["environment"], "venv_backend": "none"}
# These tests use libraries that require a newer Trio than the package does.
NEED_NEWER = ["tests/sim/test_real_libraries.py", "tests/test_libraries_on_trio_sockets.py"]
show_pyenv_versions(PYTHONS)


@nox.session(allow_parallel=True)
def demo(session: nox.Session) -> None:
    """Run the demo: real sockets on loopback, and a table of the results."""
    session.install("--quiet", "-e", ".")
    session.run("python", "-m", "examples.demo", *session.posargs)


@nox.session(python=PYTHONS, allow_parallel=True)
def tests(session: nox.Session) -> None:
    """Run the quick tests on every installed Python that is supported, on others than the current with fewer examples.

    The oldest one, except for the current Python, has the lowest supported versions of the dependencies and of aioquic,
    and no compiled layer. The others have it where there is a C compiler; none is needed.
    """
    lowest = LOWEST if session.python == PYTHON_OF_LOWEST else []
    if lowest:
        session.env.update(PURE)
    session.install("-e", ".", *lowest, *group("test"))
    selected = without(DOCS_EXAMPLES, *(NEED_NEWER if lowest else []))
    if session.python == CURRENT:
        cover_tests(session, *selected, *QUICK)
    else:
        run_tests(session, *selected, *(VARIED if lowest else QUICK), "--hypothesis-profile=few")


@nox.session(allow_parallel=True)
def environment(session: nox.Session) -> None:
    """Install what most sessions share, since to install it for each takes as long as some of them."""
    session.install("-e", ".", *group("typing"), *group("docs"), *group("bench"))


@nox.session(**SHARES_ENVIRONMENT, allow_parallel=True)
def tests_programs(session: nox.Session) -> None:
    """Run the tests that start programs: the examples, the command line, and peers from the distribution."""
    cover_tests(session, *without(DOCS_EXAMPLES), "-m", "programs and not long")


@nox.session(**SHARES_ENVIRONMENT, allow_parallel=True)
def tests_long(session: nox.Session) -> None:
    """Run the long tests of sockets and services: floods by other processes, bounded work."""
    run_tests(session, *without(DOCS_EXAMPLES, INTERRUPTS, *SIMULATOR), "-m", "long")


@nox.session(**SHARES_ENVIRONMENT, allow_parallel=True)
def tests_simulator(session: nox.Session) -> None:
    """Run the long tests of the simulated network: many seeds, shrinking, replays on the kernel."""
    run_tests(session, *SIMULATOR, "-m", "long")


@nox.session(**SHARES_ENVIRONMENT, allow_parallel=True)
def tests_interrupts(session: nox.Session) -> None:
    """Run the long tests that interrupt programs at every line of the package."""
    run_tests(session, INTERRUPTS)


@nox.session(**SHARES_ENVIRONMENT, allow_parallel=True)
def tests_portable(session: nox.Session) -> None:
    """Run the tests on the portable path, in pure Python, with the long ones that depend on it."""
    session.env.update(PURE)
    run_tests(session, *without(DOCS_EXAMPLES, *SIMULATOR), "--portable", *VARIED)


@nox.session(**SHARES_ENVIRONMENT)  # Not parallel to the tests: the README's echo server and theirs use the same port.
def docs_examples(session: nox.Session) -> None:
    """Run the examples of the README, the documentation and the docstrings."""
    run_tests(session, DOCS_EXAMPLES)


@nox.session(allow_parallel=True)
def sanitize(session: nox.Session) -> None:
    """Run the tests of the hot calls on the compiled layer with AddressSanitizer and UndefinedBehaviorSanitizer."""
    flags = "-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
    libraries = (f"lib{name}.so" for name in ("asan", "ubsan"))
    found = (session.run("gcc", f"-print-file-name={name}", external=True, silent=True) for name in libraries)
    # A checkout of its own, since other sessions use the extension module in this one.
    checkout = Path(session.create_tmp()) / "checkout"
    shutil.rmtree(checkout, ignore_errors=True)
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*", "*.so", "dist"))
    session.chdir(checkout)
    session.install("-e", ".", *group("test"), env={"CFLAGS": flags, "CC": "gcc"})
    session.run(
        *("pytest", "tests/test_hot_calls.py", "tests/test_compiled.py", "-k", "compiled", *session.posargs),
        # The interpreter itself is not free of leaks, and its own allocator would hide errors.
        env={
            "CC": "gcc",
            "CFLAGS": flags,
            "LD_PRELOAD": " ".join(str(path).strip() for path in found),
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONMALLOC": "malloc",
        },
    )


@nox.session(**SHARES_ENVIRONMENT, allow_parallel=True)
def docs(session: nox.Session) -> None:
    """Build the documentation site into ``docs/_build/html``, offline; ``-- --online`` checks the inventories first."""
    if "--online" in session.posargs:
        run(session, "python", "docs/inventories/__init__.py")
    run(session, "sphinx-build", "-q", "-E", "-n", "-W", "--keep-going", "docs", "docs/_build/html")


@nox.session(**SHARES_ENVIRONMENT)
def coverage(session: nox.Session) -> None:
    """Report the combined coverage of the earlier sessions; on CI, which runs all of them, less than 100 % fails."""
    run(session, "coverage", "combine", "--keep", "--quiet", str(COVERAGE_DATA))
    run(session, "coverage", "report", f"--fail-under={100 if os.environ.get('CI') else 0}")


@nox.session(allow_parallel=True)
def lint(session: nox.Session) -> None:
    """Check format, lint, the changelog fragments, and the files that GitHub reads against their schemas."""
    session.install(*group("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("towncrier", "build", "--draft", "--version", "next")
    for pattern, schema in GITHUB_FILES.items():
        files = map(str, (ROOT / ".github").glob(pattern))
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)


@nox.session(**SHARES_ENVIRONMENT, allow_parallel=True)
def typing(session: nox.Session) -> None:
    """Check types with mypy and pyright, and that every public name has one."""
    run(session, "mypy", *SEEN, *OTHERS)
    # It takes as long as mypy, so what only we run is left to that.
    run(session, "pyright", *SEEN)
    run(session, "pyright", "--verifytypes", "trio_dgram", "--ignoreexternal")


@nox.session(allow_parallel=True)
def package(session: nox.Session) -> None:
    """Build the source distribution and the pure wheel into ``dist``; ``wheels.yml`` builds the compiled ones."""
    session.env.update(PURE)
    session.install(*group("build"))
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    # The sessions that install the package have built it in isolation.
    session.run("python", "-m", "build", "--no-isolation")
    session.run("twine", "check", "--strict", *map(str, (ROOT / "dist").iterdir()))
    if not list((ROOT / "dist").glob("*-py3-none-any.whl")):
        session.error("one wheel must be pure (py3-none-any)")


@nox.session(requires=["package"], reuse_venv=False, allow_parallel=True)
def build(session: nox.Session) -> None:
    """Build the distributions, and test the installed wheel outside the checkout."""
    session.install(*map(str, (ROOT / "dist").glob("*.whl")), *group("test"))
    away = Path(session.create_tmp()) / "away"
    shutil.rmtree(away, ignore_errors=True)
    for name in ("tests", "examples", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, away / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", away)
    # Enough to show that the wheel is whole: the other sessions run all tests on the same code.
    with session.chdir(away):
        run_tests(session, *INSTALLED, *QUICK)


@nox.session(venv_backend="none")
def release_check(session: nox.Session) -> None:
    """Check that ``-- TAG`` names the version, that ``CHANGELOG.md`` has its notes, and that no fragment is left."""
    version = PYPROJECT["project"]["version"]
    if session.posargs != [f"v{version}"]:
        session.error(f"the tag must be v{version}, the version in pyproject.toml, not {' '.join(session.posargs)}")
    if f"\n## {version} (" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        session.error(f"CHANGELOG.md has no notes for {version}: run towncrier build")
    if left := sorted(path.name for path in (ROOT / "changelog.d").glob("+*")):
        session.error(f"changelog.d has fragments that no release contains: {', '.join(left)}")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks."""
    session.install("-e", ".", *group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(**SHARES_ENVIRONMENT, allow_parallel=True)
def bench_smoke(session: nox.Session) -> None:
    """Check that every case of the benchmarks runs."""
    run(session, "python", "-m", "benchmarks", "--quick")
