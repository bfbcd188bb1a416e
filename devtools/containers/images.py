"""The images: stand-ins for those of a registry, kept between runs, and the project's own."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from devtools.bootstrap import ROOT
from devtools.containers.engine import Engine
from devtools.outcome import Exit, ScriptError, say
from devtools.servers import apt_install, search_path

__all__ = ["COMPOSE", "NODE", "build_node", "cache_lock", "make_stand_ins", "mirror", "pip_arguments"]

NODE = "aip-cluster:local"
COMPOSE = "aip-containers:compose"
DEBIAN = "aip-containers:debian"
PYTHON = "aip-containers:python"
# Python as new as that of the Dockerfile's default base, and a Compose that reads compose.yaml.
SUITE = "trixie"
RECIPE = Path(__file__).with_name("stand_ins.Dockerfile")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
# Indexes of packages are kept, since each image installs from them; what apt makes of them is not.
APT_CONFIG = """
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
DPkg::Post-Invoke {"rm -f /var/cache/apt/archives/*.deb";};
"""
DPKG_CONFIG = "path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n"
# What pip is told on this machine, and the Dockerfile takes as arguments.
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "cert")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
MIRROR = re.compile(r"(?m)^\s*(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*)(https?://\S+?/debian)/?(?=\s|$)")


@contextmanager
def cache_lock() -> Iterator[Path]:
    """The folder that is kept between runs, for one run at a time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aip-cluster" / "containers"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another run of scripts/containers ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


def make_stand_ins(engine: Engine, cache: Path, run_dir: Path, *, fresh: bool) -> None:
    """Loads the stand-ins, tagged as compose.yaml names them; makes and keeps them first where they are not there."""
    kept = cache / f"{_key()}.tar"
    if kept.exists() and not fresh:
        engine.docker("load", "--input", kept)
        return
    _import_debian(engine, run_dir / "debian")
    context = run_dir / "context"
    context.mkdir()
    if AUTHORITIES.exists():
        shutil.copy(AUTHORITIES, context)
    else:
        (context / AUTHORITIES.name).touch()
    tags = {"python": PYTHON, **_named_by_compose(), "compose": COMPOSE}
    for target, tag in tags.items():
        say(f"    {target}")
        build = ("build", "--network", "host", *_proxies(), "--build-arg", f"DEBIAN={DEBIAN}")
        engine.docker(*build, "--file", RECIPE, "--target", target, "--tag", tag, context)
    new = kept.with_suffix(".new")
    engine.docker("save", "--output", new, *tags.values())
    for old in cache.glob("*.tar"):
        old.unlink()
    new.replace(kept)


def build_node(engine: Engine) -> None:
    """Builds the Dockerfile of this checkout on the stand-in of Python."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    arguments = {"PYTHON_IMAGE": PYTHON, **pip_arguments(told.stdout)}
    options = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    engine.docker("build", "--network", "host", *_proxies(), *options, "--tag", NODE, ROOT)


def _key() -> str:
    """Changes with whatever the stand-ins are made of."""
    digest = hashlib.sha256(RECIPE.read_bytes())
    authorities = AUTHORITIES.read_bytes() if AUTHORITIES.exists() else b""
    for part in (SUITE, APT_CONFIG, DPKG_CONFIG, os.uname().machine, str(_named_by_compose())):
        digest.update(part.encode())
    digest.update(authorities)
    return digest.hexdigest()[:32]


def _named_by_compose() -> dict[str, str]:
    """By the stage of the recipe, what compose.yaml calls the image."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    return {name: services[name]["image"] for name in ("redis", "nginx", "prometheus")}


def _import_debian(engine: Engine, folder: Path) -> None:
    program = shutil.which("debootstrap", path=search_path())
    if program is None and apt_install("debootstrap"):
        program = shutil.which("debootstrap", path=search_path())
    if program is None:
        raise ScriptError(Exit.MISSING, "there is no debootstrap, and apt cannot install it")
    log = engine.logs / "debootstrap.log"
    command = [
        "nice",
        program,
        "--variant=minbase",
        "--include=ca-certificates",
        SUITE,
        str(folder),
        *_own_mirror(),
    ]
    with log.open("wb") as output:
        env = {**os.environ, "PATH": search_path()}
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=env, check=False)
    if done.returncode:
        raise ScriptError(Exit.MISSING, f"debootstrap could not make Debian {SUITE}", log)
    for name in ("doc", "man", "locale"):
        shutil.rmtree(folder / "usr" / "share" / name, ignore_errors=True)
    (folder / "etc" / "apt" / "apt.conf.d" / "90-small").write_text(APT_CONFIG, encoding="utf-8")
    (folder / "etc" / "dpkg" / "dpkg.cfg.d" / "90-small").write_text(DPKG_CONFIG, encoding="utf-8")
    for archive in (folder / "var" / "cache" / "apt").rglob("*.[db]*"):
        archive.unlink()
    engine.import_folder(folder, DEBIAN)
    shutil.rmtree(folder)


def mirror(sources: str) -> str | None:
    """Where a list of apt's sources, in either of its forms, has Debian's packages from."""
    found = MIRROR.search(sources)
    return found[1] if found else None


def pip_arguments(listing: str) -> dict[str, str]:
    """What `pip config list` says, as arguments of the build: a machine may have an index, or an authority, of its own.

    Folders of this machine are left out, since they are not there in the build.
    """
    arguments: dict[str, str] = {}
    # Last what the environment says: it wins.
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        setting = name.rpartition(".")[2]
        values = [word for word in value.strip("'\"").replace("\\n", " ").split() if not word.startswith("file:")]
        if setting in PIP_SETTINGS and values:
            # The recipe has brought what this machine trusts.
            said = str(AUTHORITIES) if setting == "cert" else " ".join(values)
            arguments[f"PIP_{setting.upper().replace('-', '_')}"] = said
    return arguments


def _own_mirror() -> list[str]:
    """As an argument of debootstrap; without one it asks Debian's own."""
    apt = Path("/etc/apt")
    for path in (apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))):
        if path.is_file() and (found := mirror(path.read_text(encoding="utf-8", errors="replace"))):
            return [found]
    return []


def _proxies() -> list[str]:
    """Docker takes these without being asked to, and keeps them in no image."""
    return [part for name in PROXIES if name in os.environ for part in ("--build-arg", f"{name}={os.environ[name]}")]
