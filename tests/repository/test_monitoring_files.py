"""The Grafana dashboard and the Prometheus alerts in docs/: well-formed, and about metrics that the service exports."""

import json
import re
from functools import cache

import pytest
import yaml

from backend.composition import parts, web
from backend.errors import Reason
from backend.metrics import STAGES
from backend.settings import read
from tests.support.markdown import ROOT, document

DASHBOARD = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
RULES = [
    rule for group in yaml.safe_load((ROOT / "docs" / "prometheus-alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]  # fmt: skip
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

LEFT_OUT: dict[str, str] = {}
"""Metrics that are not on the dashboard, each with the reason."""

COLUMNS = 24
KINDS = ("timeseries", "stat", "row")
UNITS = ("short", "s", "ops", "percentunit", "bytes")
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
NOT_OURS = {"up": frozenset(("job", "instance"))}
FROM_PROMETHEUS = {"job", "instance", "le"}
VALUES = {
    "stage": {*STAGES, "redis_get", "redis_put"},
    "reason": set(map(str, Reason)),
    "tier": {"memory", "disk", "redis", "miss"},
    "outcome": {"regions", "empty"},
}
FUNCTIONS = {
    "sum", "max", "min", "rate", "increase", "histogram_quantile", "by", "and", "or", "unless", "on", "ignoring",
}  # fmt: skip


@cache
def exported() -> dict[str, tuple[str, frozenset[str]]]:
    """Every family that a web process exports, with Redis or without: its type and its own labels."""
    metrics = {}
    for environ in ({}, {"REDIS_URL": "redis://127.0.0.1:1/0"}):
        settings = read(environ)
        service = web.build(settings, parts.read_weights(settings))
        service.metrics.record_lookup("miss")
        service.metrics.background_failure(Reason.IMAGE_NOT_FOUND)
        answer = service.app.test_client().post("/predict", json={"tasks": [{"id": 1}]})
        assert answer.status_code == 200
        for family in service.metrics.registry.collect():
            labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
            metrics[family.name] = family.type, labels
        service.close()
    return metrics


def series() -> dict[str, frozenset[str]]:
    """Every series that a query can name, with its labels."""
    families = exported().items()
    return {name + suffix: labels for name, (kind, labels) in families for suffix in SUFFIXES[kind]} | NOT_OURS


EXPRESSIONS = [
    *((panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]),
    *((rule["alert"], rule["expr"]) for rule in RULES),
]
every_expression = pytest.mark.parametrize(("title", "expr"), EXPRESSIONS, ids=[title for title, _ in EXPRESSIONS])


def without_matchers(expr: str) -> str:
    return re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", expr)


def names(expr: str) -> set[str]:
    """The metrics of an expression: the words that are neither functions nor lists of labels."""
    bare = re.sub(r"\b(by|on|ignoring) ?\([^)]*\)", "", without_matchers(expr))
    return set(re.findall(r"\b[a-z][a-z_0-9]*\b", bare)) - FUNCTIONS


@every_expression
def test_an_expression_names_metrics_that_are_exported(title, expr):
    names_used = names(expr)
    assert names_used, expr
    assert names_used <= set(series()), expr


@every_expression
def test_an_expression_names_labels_and_values_that_its_metrics_have(title, expr):
    has = {label for name in names(expr) for label in series()[name]} | FROM_PROMETHEUS
    for matchers in re.findall(r"\{([^}]*)\}", expr):
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers):
            assert label in has, expr
            if label in VALUES:
                words = value.split("|") if "~" in operator else [value]
                assert set(words) <= VALUES[label], expr
    for grouping in re.findall(r"\bby ?\(([^)]*)\)", expr):
        assert {label.strip() for label in grouping.split(",")} <= has, expr


@every_expression
def test_brackets_of_an_expression_are_paired_and_rates_have_a_range(title, expr):
    stack = []
    for sign in re.sub(r'"[^"]*"', "", expr):
        if sign in "([{":
            stack.append(sign)
        elif sign in ")]}":
            assert stack, expr
            assert stack.pop() + sign in ("()", "[]", "{}"), expr
    assert not stack, expr
    for inner in re.findall(r"\b(?:rate|increase)\(([^()]*)\)", expr):
        assert re.fullmatch(r"\w+(\{[^}]*\})?\[(\d+[smhd]|\$__rate_interval)\]", inner), inner


def test_every_metric_is_on_the_dashboard_or_left_out_for_a_reason():
    shown = {name for panel in PANELS for target in panel["targets"] for name in names(target["expr"])}
    missing = {family for family, (kind, _) in exported().items() if not shown & {family + s for s in SUFFIXES[kind]}}
    assert missing == set(LEFT_OUT)
    assert all(LEFT_OUT.values())


def test_operations_explains_every_metric_and_no_other():
    documented: dict[str, tuple[str, frozenset[str]]] = {}
    for table in document("docs/operations.md").tables:
        if table.head[0] == "metric":
            for metrics, kind, labels, _ in table.rows:
                for name in re.findall(r"`(\w+)`", metrics):
                    own = frozenset(re.findall(r"`(\w+)`", labels))
                    documented[name.removesuffix("_total") if kind == "counter" else name] = kind, own
    assert documented == exported()


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_a_panel_is_well_formed(panel):
    position = panel["gridPos"]
    assert panel["type"] in KINDS
    assert 0 <= position["x"] < position["x"] + position["w"] <= COLUMNS
    assert position["h"] > 0
    if panel["type"] == "row":
        return
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert [target["refId"] for target in panel["targets"]] == [chr(65 + n) for n in range(len(panel["targets"]))]
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert target["legendFormat"]
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), "the legend names what is summed away"


def test_panels_have_numbers_of_their_own_and_do_not_overlap():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken_cells = set()
    for panel in DASHBOARD["panels"]:
        position = panel["gridPos"]
        cells = {
            (x, y) for x in range(position["x"], position["x"] + position["w"])
            for y in range(position["y"], position["y"] + position["h"])
        }  # fmt: skip
        assert not cells & taken_cells, panel["title"]
        taken_cells |= cells


def test_the_dashboard_can_be_imported_and_asks_for_source_and_job():
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] >= 30
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "job"]
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r"\$\{?(\w+)", text)) == {"datasource", "job", "__rate_interval"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_well_formed(rule):
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"PaddleSam[A-Za-z]+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description"}
    for label in re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())):
        assert re.search(rf"by \([^)]*\b{label}\b", rule["expr"]) or label in NOT_OURS["up"]


def test_alerts_have_names_of_their_own():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
