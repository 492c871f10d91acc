"""The container files: what they copy exists, what they run is a command, and the services fit together."""

import fnmatch
import importlib.resources
import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from backend.cli import health
from backend.cli.main import main
from backend.composition import web as composition_web
from backend.settings import NAMES, read
from tests.support.dockerfile_steps import Image, Step, build, parse

ROOT = Path(__file__).parents[2]
STEPS = list(parse((ROOT / "Dockerfile").read_text()))
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
GPU = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
OURS = ("web", "worker")


def interpolated(text, environ=None):
    """A value as compose would fill it in, for the two forms that are used."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: (environ or {}).get(match[1]) or match[2], str(text))


def environment(service, environ=None):
    return {name: interpolated(value, environ) for name, value in COMPOSE["services"][service]["environment"].items()}


def stages():
    """What each stage is built on, in order."""
    return {step.stage: step.text.split()[0] for step in STEPS if step.name == "FROM"}


def of_stage(name, *instructions):
    """The texts of a stage's instructions of these kinds."""
    return [step.text for step in STEPS if step.stage == name and step.name in instructions]


def is_sent(path):
    """Whether a file of the context is sent to the builder, by the rules of .dockerignore: the last match counts."""
    is_out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if any(_matches(pattern, part) for part in (path, *path.parents) if part.name):
                is_out = not line.startswith("!")
    return not is_out


def _matches(pattern, path):
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(path.name, pattern[3:])
    return len(path.parts) == 1 and fnmatch.fnmatchcase(path.name, pattern)


def test_everything_copied_from_the_context_exists_and_is_not_ignored():
    named = {
        word for step in STEPS if step.name == "COPY" and "--from=" not in step.text for word in step.text.split()[:-1]
    }
    assert {"model", "backend", "requirements.lock", "requirements-gpu.txt", "requirements-gpu.lock"} <= named
    assert all((ROOT / name).exists() for name in named)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert named == allowed


def test_what_is_sent_to_the_builder_is_small_and_not_private():
    files = [path.relative_to(ROOT) for name in ("model", "backend") for path in (ROOT / name).rglob("*")]
    sent = [path for path in files if (ROOT / path).is_file() and is_sent(path)]
    assert Path("model/demo/demo.safetensors") in sent
    assert Path("backend/web/app.py") in sent
    assert sum((ROOT / path).stat().st_size for path in sent) < 18_000_000
    assert not [path for path in sent if path.suffix == ".pyc"]


@pytest.mark.parametrize(
    "name",
    [
        ".env", ".git/config", ".demo/login.json", ".venv/bin/python", ".ci/run", "runs/last.pt", "weights/sam.pth",
        "out/a.png", "tests/support/fakes.py", "docs/operations.md", "README.md", "docker-compose.yml", "dist/a.whl",
        "model/.env", "backend/.cache/a", "backend/__pycache__/app.cpython-311.pyc", "model/demo/a.pyc",
    ],
)  # fmt: skip
def test_what_is_private_or_heavy_is_not_sent_to_the_builder(name):
    assert not is_sent(Path(name))


def test_stages_that_are_copied_from_or_built_on_exist():
    known = stages()
    assert all(base in known or base == "python:${PYTHON}" for base in known.values())
    copied = {name for step in STEPS for name in re.findall(r"^--from=(\S+)", step.text)}
    assert copied == {"app", "build-cpu", "build-gpu"} <= set(known)
    assert {
        service["build"]["target"] for service in (*map(COMPOSE["services"].get, OURS), GPU["services"]["worker"])
    } == {
        "cpu",
        "gpu",
    }
    assert list(known)[-1] == "cpu"


def test_images_that_others_make_are_named_to_the_last_digit():
    (python,) = (step.text.partition("=")[2] for step in STEPS if step.name == "ARG" and step.stage == "")
    others = [service["image"].rpartition(":")[2] for service in COMPOSE["services"].values() if "build" not in service]
    assert len(others) == 2
    assert all(re.match(r"\d+\.\d+\.\d+(-|$)", tag) for tag in (python, *others))
    assert python.startswith("3.11.")
    assert python.endswith("-slim-bookworm")


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_final_image_runs_as_a_user_without_rights_and_holds_no_compiler_or_weights(target):
    assert stages()[target] == "base"
    base = [(step.name, step.text) for step in STEPS if step.stage == "base"]
    names = [name for name, _ in base]
    assert base[names.index("USER")][1] == "paddle-sam"
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    assert not of_stage(target, "USER", "RUN")
    assert not re.search(r"\b(gcc|g\+\+|build-essential|pip)\b", " ".join(of_stage("base", "RUN")))
    assert of_stage("base", "VOLUME") == ['["/weights", "/cache"]']
    assert "MODEL_DIR=/weights" in of_stage("base", "ENV")[0]
    assert of_stage(target, "COPY") == [f"--from=build-{target} /venv /venv"]


def words(instruction):
    """The words of the only instruction of this kind, from its JSON form."""
    (text,) = (step.text for step in STEPS if step.name == instruction)
    return json.loads(text[text.index("[") :])


def test_what_containers_run_are_commands_of_ours():
    entry = words("ENTRYPOINT")
    assert entry == ["python", "-m", "backend"]
    checks = [words("HEALTHCHECK"), *(COMPOSE["services"][name]["healthcheck"]["test"][1:] for name in OURS)]
    assert all(check[:3] == entry for check in checks)
    commands = [
        words("CMD"),
        *(COMPOSE["services"][name]["command"] for name in OURS),
        *(check[3:] for check in checks),
    ]
    for command in commands:
        result = CliRunner().invoke(main, [*command, "--help"])
        assert result.exit_code == 0, result.output


def test_a_health_check_asks_what_its_container_runs():
    assert words("HEALTHCHECK")[3:] == [*words("CMD"), "--check"]
    for name in OURS:
        service = COMPOSE["services"][name]
        assert service["healthcheck"]["test"][4:] == [*service["command"], "--check"]


def test_the_address_that_health_checks_ask_is_one_of_the_services(tiny_checkpoint, tmp_path):
    service = composition_web.build(
        read({"PADDLE_SAM_CACHE_DIR": str(tmp_path), "BASIC_AUTH_USER": "a", "BASIC_AUTH_PASS": "b"}), tiny_checkpoint
    )
    assert (
        service.app.test_client().get(health.PATH).status_code == 200
    )  # without credentials, which the check does not have
    service.close()
    label_studio = COMPOSE["services"]["label-studio"]["healthcheck"]["test"]
    assert label_studio[-1] == f"http://localhost:8080{health.PATH}"


SCHEMA_REASON = "the schema of compose files comes with check-jsonschema, see requirements-dev.txt"


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.gpu.yml"])
def test_a_compose_file_keeps_to_the_specification(name):
    validator = schema_of_compose_files()
    compose_file = yaml.safe_load((ROOT / name).read_text())
    assert [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(compose_file)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"helthcheck": {}},
        {"ports": "9090"},
        {"deploy": {"replicas": [1]}},
        {"depends_on": {"redis": {"condition": "up"}}},
    ],
)
def test_the_specification_would_not_take_a_slip(change):
    slipped = {"services": {"web": {**COMPOSE["services"]["web"], **change}}}
    assert list(schema_of_compose_files().iter_errors(slipped))


def schema_of_compose_files():
    package = pytest.importorskip("check_jsonschema", reason=SCHEMA_REASON)
    jsonschema = pytest.importorskip("jsonschema", reason=SCHEMA_REASON)
    path = importlib.resources.files(package) / "builtin_schemas" / "vendor" / "compose-spec.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_text()))


def test_a_dockerfiles_lines_are_distinguished():
    steps = list(parse("# a\nARG A=1\n\nFROM b:${A} AS c\nRUN x \\\n    && y\n"))
    assert steps == [Step("", "ARG", "A=1"), Step("c", "FROM", "b:${A} AS c"), Step("c", "RUN", "x && y")]
    with pytest.raises(ValueError, match="expected an instruction, got 'oops'"):
        list(parse("FROM a AS b\noops\n"))


def test_paths_of_the_image_are_put_below_a_folder_and_others_left_alone(tmp_path):
    image = Image(tmp_path, ROOT)
    assert image.below("/venv/bin:/usr/bin /app /application x/app") == (
        f"{tmp_path}/venv/bin:/usr/bin {tmp_path}/app /application x/app"
    )
    assert image.run("apt-get update && install -d -o somebody /weights /cache && useradd x") == [
        "apt-get update",
        "useradd x",
    ]
    assert (tmp_path / "weights").is_dir()


@pytest.mark.slow
def test_the_steps_make_a_service_that_becomes_healthy(tmp_path):
    lines = list(build(tmp_path))
    assert lines[-1].startswith("healthy after ")
    names = {line.split()[0] for line in lines[:-1] if not line.startswith(" ")}
    assert names == {"build", "build-cpu", "app", "base"}


@pytest.mark.parametrize("service", OURS)
def test_a_services_settings_are_known_and_readable(service):
    values = environment(service)
    assert set(values) <= set(NAMES)
    settings = read(values)
    assert settings.redis_url is not None
    assert settings.redis_url.value == "redis://redis:6379/0"


def test_web_processes_and_workers_agree_on_what_they_share():
    web, worker = environment("web"), environment("worker")
    shared = ["REDIS_URL", "PADDLE_SAM_REDIS_PREFIX", "PADDLE_SAM_WEIGHTS", "PADDLE_SAM_EMBEDDING_DTYPE"]
    assert [web[name] for name in shared] == [worker[name] for name in shared]


@pytest.mark.parametrize("host", [None, "https://labels.example.com/ls"])
def test_images_that_label_studio_names_by_its_public_address_are_known_as_its_own(host):
    environ = {"LABEL_STUDIO_HOST": host} if host else {}
    public = interpolated(COMPOSE["services"]["label-studio"]["environment"]["LABEL_STUDIO_HOST"], environ)
    for service in OURS:
        assert read(environment(service, environ)).label_studio_public_url == public


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
    assert [name for name, service in COMPOSE["services"].items() if "store" in service.get("networks", [])] == [
        *OURS,
        "redis",
    ]


def in_bytes(text):
    number, unit = re.fullmatch(r"(\d+)(mb|gb|m|g|Mi|Gi)", text).groups()
    return int(number) * 1024 ** {"m": 2, "g": 3}[unit[0].lower()]


@pytest.mark.parametrize("name", [*OURS, "redis"])
def test_a_service_has_the_least_rights_and_a_limit_of_memory(name):
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert in_bytes(interpolated(service["mem_limit"])) >= 2 * 1024**3


def test_redis_may_take_more_memory_than_its_values_and_runs_as_the_images_user():
    redis = COMPOSE["services"]["redis"]
    words = [interpolated(word) for word in redis["command"]]
    assert in_bytes(interpolated(redis["mem_limit"])) > 1.2 * in_bytes(words[words.index("--maxmemory") + 1])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", redis["user"])


@pytest.mark.parametrize("name", OURS)
def test_what_a_service_of_ours_writes_lies_in_volumes(name):
    (declared,) = of_stage("base", "VOLUME")
    assert {"/weights", "/cache"} == set(json.loads(declared))
    assert COMPOSE["services"][name]["volumes"] == ["weights:/weights"], "/cache is the image's own volume"


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


def test_the_override_names_its_gpu_since_a_count_would_be_the_first_one_for_every_worker():
    (device,) = GPU["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert "count" not in device
    assert [interpolated(device_id, {"GPU": "1"}) for device_id in device["device_ids"]] == ["1"]


def test_the_workers_of_further_gpus_that_the_override_shows_are_yaml_and_have_the_same_image():
    text = (ROOT / "docker-compose.gpu.yml").read_text()
    shown = re.sub(r"(?m)^  # (?=worker-1:|  )", "  ", text)
    worker, further = (yaml.safe_load(shown)["services"][name] for name in ("worker", "worker-1"))
    assert further["extends"]["service"] in COMPOSE["services"]
    assert (further["image"], further["environment"]) == (worker["image"], worker["environment"])
    assert further["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == ["1"]


def test_volumes_and_networks_that_are_used_are_declared():
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        assert set(service.get("networks", [])) <= {"default", *COMPOSE["networks"]}
