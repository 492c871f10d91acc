"""The Kubernetes manifests: valid by its schemas, least rights, settings that exist, and parts that find each other."""

import copy
from pathlib import Path

import pytest
import yaml

from backend.cli.main import main
from backend.settings import NAMES, read
from backend.web.listening import STOP_WITHIN_S
from tests.support.dockerfile_steps import parse

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="reads the source tree's own files")

RELEASES = ("1.29", "1.31", "1.34")
OBJECTS = [
    (path.relative_to(FOLDER).as_posix(), each)
    for path in sorted(FOLDER.rglob("*.yaml"))
    for each in yaml.safe_load_all(path.read_text())
]
DEPLOYMENTS = {each["metadata"]["name"]: each["spec"] for _, each in OBJECTS if each["kind"] == "Deployment"}
OURS = ("paddle-sam-web", "paddle-sam-worker", "paddle-sam-worker-gpu")
SETTINGS = next(each["data"] for _, each in OBJECTS if each["kind"] == "ConfigMap")


def of_kind(kind):
    return [each for _, each in OBJECTS if each["kind"] == kind]


def pod(name):
    return DEPLOYMENTS[name]["template"]["spec"]


def container(name):
    [container] = pod(name)["containers"]
    return container


def selects(selector, labels):
    """Whether a selector matches labels."""
    matching = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    for rule in selector.get("matchExpressions", []):
        matching &= (labels.get(rule["key"]) in rule["values"]) is (rule["operator"] == "In")
    return matching


def as_keda_reads(manifest):
    """The fields of a ScaledObject that KEDA defines; ValueError if one is missing or of another type."""
    models = pytest.importorskip("cloudcoil.models.keda.v1alpha1", reason="see requirements-dev.txt")
    return models.ScaledObject.model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_unset=True)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("path", "manifest"), OBJECTS, ids=[f"{path}-{each['kind']}" for path, each in OBJECTS])
def test_a_manifest_keeps_to_the_schema(path, manifest, release):
    if manifest["kind"] == "ScaledObject":
        assert as_keda_reads(manifest) == manifest, "not one of Kubernetes' own kinds"
        return
    schemas = pytest.importorskip("kubernetes_validate", reason="see requirements-dev.txt")
    schemas.validate(manifest, release, strict=True)


def test_a_slip_in_a_manifest_is_seen():
    schemas = pytest.importorskip("kubernetes_validate", reason="see requirements-dev.txt")
    manifest = yaml.safe_load((FOLDER / "worker.yaml").read_text())
    manifest["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(schemas.ValidationError):
        schemas.validate(manifest, RELEASES[0], strict=True)


@pytest.fixture
def scaled():
    [scaled] = copy.deepcopy(of_kind("ScaledObject"))
    return scaled


def test_a_field_that_keda_does_not_know_is_seen(scaled):
    scaled["spec"]["maxReplicas"] = scaled["spec"]["triggers"][0]["metric"] = 4
    spec = as_keda_reads(scaled)["spec"]
    assert "maxReplicas" not in spec
    assert "metric" not in spec["triggers"][0]


@pytest.mark.parametrize(("field", "value"), [("scaleTargetRef", None), ("maxReplicaCount", "many"), ("triggers", {})])
def test_a_value_that_keda_cannot_read_is_seen(scaled, field, value):
    scaled["spec"][field] = value
    with pytest.raises(ValueError, match=field):
        as_keda_reads(scaled)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_pod_has_the_least_rights(name):
    rights = container(name)["securityContext"]
    assert rights["readOnlyRootFilesystem"]
    assert not rights["allowPrivilegeEscalation"]
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert pod(name)["securityContext"]["runAsNonRoot"]
    assert pod(name)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(name)["enableServiceLinks"] is pod(name)["automountServiceAccountToken"] is False
    assert container(name)["resources"]["limits"]["memory"]
    assert container(name)["resources"]["requests"].keys() >= {"cpu", "memory"}


@pytest.mark.parametrize("name", OURS)
def test_our_pods_run_as_the_images_user_and_may_write_where_it_writes(name):
    steps = list(parse((ROOT / "Dockerfile").read_text()))
    assert any(f"--uid {pod(name)['securityContext']['runAsUser']} " in step.text for step in steps)
    [volumes] = [step.text for step in steps if step.name == "VOLUME"]
    assert {mount["mountPath"] for mount in container(name)["volumeMounts"]} == {"/tmp", *yaml.safe_load(volumes)}
    mounted = {mount["name"] for mount in container(name)["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod(name)["volumes"]}


@pytest.mark.parametrize("name", OURS)
def test_our_pods_run_a_command_with_settings_that_exist(name):
    [command] = container(name)["args"]
    assert command in main.commands
    [secret] = of_kind("Secret")
    own = {each["name"]: each["value"] for each in container(name)["env"]}
    environ = SETTINGS | secret["stringData"] | own
    assert environ.keys() <= set(NAMES)
    read(environ)
    names = {reference[kind]["name"] for reference in container(name)["envFrom"] for kind in reference}
    assert names == {"paddle-sam"}


def test_probes_ask_what_they_are_for():
    web = container("paddle-sam-web")
    paths = {kind: web[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}
    for name in OURS[1:]:
        assert "worker --check" in container(name)["livenessProbe"]["exec"]["command"][-1]
    assert pod("paddle-sam-web")["terminationGracePeriodSeconds"] >= STOP_WITHIN_S + 5, "its own time and preStop's"


def test_services_and_addresses_lead_to_a_pod():
    for service in of_kind("Service"):
        names = [
            name
            for name, spec in DEPLOYMENTS.items()
            if selects({"matchLabels": service["spec"]["selector"]}, spec["template"]["metadata"]["labels"])
        ]
        assert len(names) == 1, service["metadata"]["name"]
        ports = {port["name"] for port in container(names[0])["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    [redis] = [each for each in of_kind("Service") if each["metadata"]["name"] == "paddle-sam-redis"]
    assert SETTINGS["REDIS_URL"] == f"redis://paddle-sam-redis:{redis['spec']['ports'][0]['port']}/0"
    for name, spec in DEPLOYMENTS.items():
        assert selects(spec["selector"], spec["template"]["metadata"]["labels"]), name


def test_redis_runs_as_with_compose():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]
    assert container("paddle-sam-redis")["image"] == compose["image"]
    plain = [str(word).replace("${REDIS_MAXMEMORY:-2gb}", "2gb") for word in compose["command"]]
    assert container("paddle-sam-redis")["args"] == plain


def test_redis_is_reached_by_our_pods_alone():
    labels = {name: spec["template"]["metadata"]["labels"] for name, spec in DEPLOYMENTS.items()}
    policies = [
        each["spec"]
        for each in of_kind("NetworkPolicy")
        if selects(each["spec"]["podSelector"], labels["paddle-sam-redis"])
    ]
    [policy] = policies
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert "egress" not in policy
    [rule] = policy["ingress"]
    [source] = rule["from"]
    assert {name for name in labels if selects(source["podSelector"], labels[name])} == set(OURS)


def test_scaling_asks_for_a_metric_that_is_documented():
    [scaled] = of_kind("ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] in DEPLOYMENTS
    [trigger] = scaled["spec"]["triggers"]
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "Value")
    assert trigger["metadata"].keys() == {"serverAddress", "query", "threshold"}, "what this scaler cannot do without"
    metric = trigger["metadata"]["query"].split("(")[1].split("{")[0]
    assert f"`{metric}`" in (ROOT / "docs" / "operations.md").read_text()
