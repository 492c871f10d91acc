"""The container files: what they copy exists, what they run is a command, and the services fit together."""

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from backend.__main__ import main
from backend.settings import NAMES, read

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
GPU = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
OURS = ("web", "worker")


def interpolated(text, environ=None):
    """A value as compose would fill it in, for the two forms that are used."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: (environ or {}).get(found[1]) or found[2], str(text))


def environment(service, environ=None):
    return {name: interpolated(value, environ) for name, value in COMPOSE["services"][service]["environment"].items()}


def stages():
    """What each stage is built on, in order."""
    return {name: base for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}


def final_stages():
    """The text of the stages that the two targets are made of, without those they only copy from."""
    parts = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)
    return {found[1]: part for part in parts if (found := re.match(r"FROM \S+ AS (\S+)", part))}


def test_everything_copied_from_the_context_exists_and_is_not_ignored():
    sources = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    named = [word for line in sources for word in line.split()[:-1]]
    assert {"model", "backend", "requirements.txt", "requirements-gpu.txt"} <= set(named)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in named:
        assert (ROOT / name).exists()
        assert name.removeprefix("./") in allowed


def test_stages_that_are_copied_from_or_built_on_exist():
    known = stages()
    for base in known.values():
        assert base in known or base.startswith("python:")
    for name in re.findall(r"--from=(\S+)", DOCKERFILE):
        assert name in known
    assert {
        service["build"]["target"] for service in (*map(COMPOSE["services"].get, OURS), GPU["services"]["worker"])
    } == {
        "cpu",
        "gpu",
    }
    assert list(known)[-1] == "cpu"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_final_image_runs_as_nobody_in_particular_without_compiler_or_weights(target):
    parts = final_stages()
    base = parts["base"]
    whole = base + parts[target]
    assert re.search(r"^FROM base AS", parts[target])
    assert "USER paddle-sam" in base
    assert base.index("USER paddle-sam") > base.index("RUN ")
    assert "USER" not in parts[target]
    assert not re.search(r"\b(gcc|g\+\+|build-essential|pip install)\b", whole)
    assert 'VOLUME ["/weights", "/cache"]' in base
    assert "MODEL_DIR=/weights" in base
    assert f"--from=build-{target} /venv /venv" in parts[target]


def test_what_containers_run_are_commands_of_ours():
    entry = re.search(r'^ENTRYPOINT \["python", "-m", "backend"\]$', DOCKERFILE, re.MULTILINE)
    assert entry
    commands = [COMPOSE["services"][name]["command"] for name in OURS]
    commands.append(re.findall(r'"(\w+)"', re.search(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)[1]))
    assert COMPOSE["services"]["worker"]["healthcheck"]["test"][1:4] == ["python", "-m", "backend"]
    commands.append(COMPOSE["services"]["worker"]["healthcheck"]["test"][4:])
    for command in commands:
        done = CliRunner().invoke(main, [*command, "--help"])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("service", OURS)
def test_a_services_settings_are_known_and_readable(service):
    given = environment(service)
    assert set(given) <= set(NAMES)
    settings = read(given)
    assert settings.redis_url is not None
    assert settings.redis_url.value == "redis://redis:6379/0"


def test_web_processes_and_workers_agree_on_what_they_share():
    web, worker = environment("web"), environment("worker")
    shared = ["REDIS_URL", "PADDLE_SAM_REDIS_PREFIX", "PADDLE_SAM_WEIGHTS", "PADDLE_SAM_EMBEDDING_DTYPE"]
    assert [web[name] for name in shared] == [worker[name] for name in shared]


def test_a_web_process_has_threads_for_two_hundred_waiting_clicks():
    assert read(environment("web")).threads > 200


def test_redis_has_a_bound_drops_embeddings_first_and_is_reached_by_ours_alone():
    redis = COMPOSE["services"]["redis"]
    words = [interpolated(word) for word in redis["command"]]
    assert words[words.index("--maxmemory-policy") + 1] == "volatile-lru"
    assert words[words.index("--maxmemory") + 1] == "2gb"
    assert "ports" not in redis
    assert COMPOSE["networks"]["store"]["internal"] is True
    assert redis["networks"] == ["store"]
    assert [name for name, one in COMPOSE["services"].items() if "store" in one.get("networks", [])] == [*OURS, "redis"]


def test_every_service_says_whether_it_is_well_and_ours_wait_for_redis():
    for name, service in COMPOSE["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD", name
    for name in OURS:
        assert COMPOSE["services"][name]["depends_on"]["redis"]["condition"] == "service_healthy"


def test_label_studio_comes_only_when_asked_for_and_may_reach_the_backend():
    label_studio = COMPOSE["services"]["label-studio"]
    assert label_studio["profiles"] == ["label-studio"]
    assert label_studio["environment"]["USE_DEFAULT_BANNED_SUBNETS"] == "false"
    assert environment("web")["LABEL_STUDIO_URL"] == "http://label-studio:8080"
    assert all("profiles" not in COMPOSE["services"][name] for name in (*OURS, "redis"))


def test_the_override_gives_workers_a_gpu_and_leaves_web_processes_alone():
    assert list(GPU["services"]) == ["worker"]
    worker = GPU["services"]["worker"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert read({**environment("worker"), **worker["environment"]}).device == "gpu"
    assert read(environment("web")).device == "cpu"


def test_volumes_and_networks_that_are_used_are_declared():
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        assert set(service.get("networks", [])) <= {"default", *COMPOSE["networks"]}
