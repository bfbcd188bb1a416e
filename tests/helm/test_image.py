"""The image: small, without root, without a compiler, and made of what the wheels and the lock of nodes hold.

Where there is no daemon to build it with, its own commands are run: the wheels are built as the Dockerfile builds them.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from devtools.bootstrap import BUILD as BUILD_LOCK
from devtools.bootstrap import NODE
from devtools.chart.rendering import CHART, rendered
from devtools.lock import LIGHT, pins, project
from node.settings import Settings
from tests.integration.harness.processes import free_port

ROOT = CHART.parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
Instruction = tuple[str, str]


def _instructions() -> list[Instruction]:
    lines = [line for line in TEXT.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def _stages() -> list[list[Instruction]]:
    stages: list[list[Instruction]] = []
    for instruction in _instructions():
        if instruction[0] == "FROM":
            stages.append([])
        if stages:
            stages[-1].append(instruction)
    return stages


BUILD, FINAL = _stages()


def _only(word: str, stage: list[Instruction] = FINAL) -> str:
    (value,) = [rest for name, rest in stage if name == word]
    return value


def test_it_is_linted() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_base_is_pinned_and_the_same_in_both_stages() -> None:
    (base,) = [rest for name, rest in _instructions() if name == "ARG" and rest.startswith("PYTHON_IMAGE=")]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+-slim-[a-z]+", base)
    assert [stage[0][1].split()[0] for stage in (BUILD, FINAL)] == ["${PYTHON_IMAGE}"] * 2


def test_it_runs_as_the_number_that_the_chart_runs_it_as() -> None:
    user, group = map(int, _only("USER").split(":"))
    assert user > 0
    context = rendered({}).named("Deployment", "-node")["spec"]["template"]["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (user, group)
    # Nothing is written after it has become that user.
    assert [name for name, _ in FINAL].index("USER") > max(i for i, (n, _) in enumerate(FINAL) if n in {"RUN", "COPY"})


def test_the_final_stage_holds_no_compiler_no_packages_and_nobodys_sources() -> None:
    assert len(_stages()) == 2
    assert [rest for name, rest in FINAL if name in {"COPY", "ADD"}] == ["--from=build /opt/aip /opt/aip"]
    commands = " ".join(rest for name, rest in FINAL if name == "RUN")
    assert not re.search(r"apt|apk|gcc|build-essential|pip install|curl|wget", commands)
    assert not re.search(r"(?i)password|token|api_key|secret", TEXT)


def test_it_says_how_it_is_and_what_it_is() -> None:
    options, _, command = _only("HEALTHCHECK").partition("CMD")
    assert json.loads(command) == ["aipctl", "live"]
    assert "--start-period" in options
    labels = {item.partition("=")[0].rpartition(".")[2] for item in shlex.split(_only("LABEL"))}
    assert labels >= {"title", "description", "licenses", "version", "revision", "created"}
    assert json.loads(_only("ENTRYPOINT")) == ["aip-node"]
    settings = rendered({}).named("ConfigMap", "-settings")["data"]
    assert set(_only("EXPOSE").split()) == {settings["AIP_PORT"], settings["AIP_METRICS_PORT"]}


def test_whoever_stops_a_container_is_told_to_wait_as_long_as_a_drain_takes() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    longest_s = defaults["drain_deadline_s"] + defaults["drain_linger_s"] + defaults["shutdown_timeout_s"]
    (told_s,) = re.findall(r"docker stop --time (\d+)", TEXT)
    assert int(told_s) > longest_s


def test_it_has_what_a_node_can_use_and_nothing_of_a_device() -> None:
    """What is in the lock of nodes is what tests/unit/test_lock.py says; here, that nothing but it is installed."""
    commands = " ".join(rest for name, rest in BUILD if name == "RUN")
    installs = [part for part in re.split(r"&&", commands) if " install " in part]
    assert ["--require-hashes" in part or "--no-index" in part for part in installs] == [True] * 3
    assert re.findall(r"-r (\S+)", commands) == [f"requirements/{lock.name}" for lock in (NODE, BUILD_LOCK)]
    assert "--no-build-isolation" in commands
    extras = project(LIGHT)["project"]["optional-dependencies"]["device"]
    assert not {Requirement(extra).name for extra in extras} & {pin.name for pin in pins(NODE)}


def test_what_is_copied_is_what_the_builder_is_sent() -> None:
    copied = {source.strip("./") for name, rest in BUILD if name == "COPY" for source in rest.split()[:-1]}
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    ignored = [line for line in lines if not line.startswith("#")]
    assert ignored[0] == "*"
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied


# -- what it is made of ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels, built from the files that the Dockerfile copies, by its own command, unpacked into one folder."""
    directory = tmp_path_factory.mktemp("image")
    source, dist, site = directory / "src", directory / "dist", directory / "site"
    source.mkdir()
    for item in (item.strip("./") for name, rest in BUILD if name == "COPY" for item in rest.split()[:-1]):
        if (ROOT / item).is_dir():
            shutil.copytree(ROOT / item, source / item, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (source / item).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / item, source / item)
    (command,) = [part for name, rest in BUILD if name == "RUN" for part in rest.split("&&") if " wheel " in part]
    words = shlex.split(command.replace("/dist", str(dist)))
    assert words[0] == "pip"
    subprocess.run([sys.executable, "-m", *words], cwd=source, check=True, capture_output=True)
    for wheel in dist.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    return site


def test_the_commands_of_the_image_and_the_chart_are_the_wheels(site: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in site.glob("*.dist-info/entry_points.txt")]
    declared = set(re.findall(r"(?m)^(\S+) = ", "\n".join(texts)))
    assert {"aip-node", "aipctl", "aip-device"} <= declared


def test_a_node_of_the_wheels_runs_a_task_and_is_drained(site: Path) -> None:
    """The dependencies are those of the tests; of the project itself there is nothing but the wheels."""
    port = free_port()
    dependencies = next(path for path in sys.path if path.endswith("site-packages"))
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(site), dependencies]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "AIP_PORT": str(port),
    }
    # Isolated from the checkout: neither its folder nor its editable installation is on the path.
    run = [sys.executable, "-S", "-m"]

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*run, "aip_cluster.ctl", *arguments]
        return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=90, check=False)

    node = subprocess.Popen([*run, "node", "--local"], env=env, cwd="/", stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(100):
            if ask("ready").returncode == 0:
                break
            assert node.poll() is None, node.stderr and node.stderr.read()
        smoke = ask("smoke", f"--nodes=127.0.0.1:{port}")
        assert smoke.returncode == 0, smoke.stderr
        assert json.loads(smoke.stdout)["nodes"] == 1
        assert ask("drain", "--wait=5").returncode == 0
        assert ask("live").returncode == 0
        assert "draining" in ask("ready").stderr
        node.terminate()
        assert node.wait(timeout=30) == 0
    finally:
        node.kill()
        node.communicate()
