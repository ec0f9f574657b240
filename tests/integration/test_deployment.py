"""What is shipped to deploy and to watch the pods fits what they are."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
from ruamel.yaml import YAML
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

from bridge.config.load import examine
from bridge.health import Health, application
from scheduler.storage import open_storage
from tests.acceptance.documents import blocks
from tests.unit.test_metrics import TABLE

CONFIG = Path(__file__).parents[2] / "config"
BASE = CONFIG / "kubernetes"
GUIDES = CONFIG.parent / "bridge" / "help"
COMPONENTS = ("autoscaling", "monitoring")
LABELS = {"app.kubernetes.io/name": "jobbridge"}
STOP_AFTER_GRACE = 15


def documents(path: Path) -> list[dict]:
    """The documents of a YAML file."""
    return [json.loads(json.dumps(one)) for one in YAML(typ="safe").load_all(path)]


def one(kind: str) -> dict:
    """The base's object of a kind."""
    found = [document for path in BASE.glob("*.yaml") for document in documents(path) if document.get("kind") == kind]
    assert len(found) == 1
    return found[0]


def pod() -> dict:
    return one("Deployment")["spec"]["template"]["spec"]


def container() -> dict:
    (found,) = pod()["containers"]
    return found


COMPOSE = documents(CONFIG / "compose.yaml")[0]


@pytest.mark.parametrize("name", documents(BASE / "kustomization.yaml")[0]["resources"])
def test_manifests_are_valid(name: str) -> None:
    """By the schemas of Kubernetes itself, unknown keys refused."""
    for document in documents(BASE / name):
        kubernetes_validate.validate(document, "1.37.0", strict=True)


@pytest.mark.parametrize("folder", [BASE, *(BASE / name for name in COMPONENTS)], ids=lambda folder: folder.name)
def test_a_kustomization_lists_each_manifest(folder: Path) -> None:
    kustomization = documents(folder / "kustomization.yaml")[0]
    given = {
        *kustomization["resources"],
        *(f for one in kustomization.get("configMapGenerator", []) for f in one["files"]),
    }
    assert given == {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}


def test_selectors_select_the_pods() -> None:
    deployment = one("Deployment")["spec"]
    assert deployment["template"]["metadata"]["labels"] == LABELS
    selectors = [deployment["selector"], one("PodDisruptionBudget")["spec"]["selector"]]
    selectors += [one("NetworkPolicy")["spec"]["podSelector"]]
    selectors += [spread["labelSelector"] for spread in pod()["topologySpreadConstraints"]]
    selectors += [documents(BASE / "monitoring" / "podmonitor.yaml")[0]["spec"]["selector"]]
    assert [selector["matchLabels"] for selector in selectors] == [LABELS] * 6


def test_pods_are_confined() -> None:
    """Not root, nothing to write to but /tmp, no token, no capability."""
    assert pod()["securityContext"]["runAsNonRoot"] and not pod()["automountServiceAccountToken"]
    confined = container()["securityContext"]
    assert confined["readOnlyRootFilesystem"] and not confined["allowPrivilegeEscalation"]
    assert confined["capabilities"] == {"drop": ["ALL"]}
    assert "cpu" not in container()["resources"]["limits"]


def configuration(text: str, tmp_path: Path) -> Path:
    """A shipped configuration, with its secrets where this test has them."""
    for name in re.findall(r"/run/secrets/jobbridge/([\w-]+)", text):
        (tmp_path / name).write_text("secret")
    path = tmp_path / "bridge.yaml"
    path.write_text(text.replace("/run/secrets/jobbridge", str(tmp_path)))
    return path


def shipped() -> Iterator[tuple[str, str, float]]:
    """Name, text, and the seconds that its pods are given to stop."""
    yield "kubernetes", (BASE / "bridge.yaml").read_text(), pod()["terminationGracePeriodSeconds"]
    seconds = COMPOSE["services"]["bridge"]["stop_grace_period"]
    yield "compose", COMPOSE["configs"]["bridge"]["content"].replace("$$", "$"), float(seconds.removesuffix("s"))


@pytest.mark.parametrize(("name", "text", "seconds"), list(shipped()), ids=[name for name, *_ in shipped()])
def test_configurations_have_no_mistakes_and_pods_time_to_drain(
    name: str, text: str, seconds: float, tmp_path: Path
) -> None:
    environ = {"DB_PASSWORD": "x", "MQ_PASSWORD": "x"}
    path = configuration(text, tmp_path)
    loaded, mistakes, _ = examine(path, import_handlers=True, environ=environ)
    assert mistakes == () and loaded is not None
    assert seconds == loaded.pod.grace + STOP_AFTER_GRACE
    assert loaded.http is not None
    if name == "kubernetes":
        ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
        assert ports == {"http": loaded.http.port}


def test_probes_ask_what_a_pod_serves() -> None:
    routes = {route.path for route in application(Health(dict, dict, lambda _: (b"", ""))).routes}  # type: ignore[attr-defined]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container()[probe]["httpGet"]
        assert asked["port"] == "http" and asked["path"] in routes
    (endpoint,) = documents(BASE / "monitoring" / "podmonitor.yaml")[0]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "http" and endpoint["path"] in routes


def test_a_broken_store_neither_restarts_pods_nor_holds_a_node_up() -> None:
    assert container()["livenessProbe"]["httpGet"]["path"] == container()["startupProbe"]["httpGet"]["path"] == "/livez"
    assert one("PodDisruptionBudget")["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_scaling_never_ends_at_no_pod() -> None:
    scaled = documents(BASE / "autoscaling" / "scaledobject.yaml")[0]["spec"]
    assert scaled["minReplicaCount"] >= 2 and scaled["scaleTargetRef"]["name"] == one("Deployment")["metadata"]["name"]
    assert {trigger["type"] for trigger in scaled["triggers"]} == {"postgresql", "rabbitmq"}
    given = {one["metadata"]["name"] for one in documents(BASE / "autoscaling" / "triggerauthentication.yaml")}
    assert {trigger["authenticationRef"]["name"] for trigger in scaled["triggers"]} == given


def test_the_scalers_role_needs_the_view_alone(postgresql_url: str) -> None:
    """What the guide grants is enough for the scaler's query, and for no more."""
    opened = open_storage(postgresql_url)
    opened.migrate()
    (guide,) = blocks((GUIDES / "kubernetes.md").read_text(), "sql")
    with opened.engine.connect() as connection:
        for statement in guide.text.split(";"):
            if statement.strip():
                connection.execute(text(statement))
    (asked,) = [one["metadata"] for one in documents(BASE / "autoscaling" / "scaledobject.yaml")[0]["spec"]["triggers"]
                if one["type"] == "postgresql"]  # fmt: skip
    try:
        engine = create_engine(make_url(opened.engine.url).set(username=asked["userName"], password=None))
        with engine.connect() as connection:
            assert connection.execute(text(asked["query"])).scalar_one() == 0
            with pytest.raises(ProgrammingError, match="permission denied"):
                connection.execute(text("SELECT body FROM jobbridge_jobs"))
        engine.dispose()
    finally:
        with opened.engine.connect() as connection:
            connection.execute(text(f"DROP OWNED BY {asked['userName']}"))
            connection.execute(text(f"DROP ROLE {asked['userName']}"))
        opened.close()


def test_the_guides_overlay_names_what_there_is() -> None:
    (overlay,) = blocks((GUIDES / "kubernetes.md").read_text(), "yaml")
    shown = YAML(typ="safe").load(overlay.text)
    assert {Path(one).name for one in shown["components"]} == set(COMPONENTS)
    assert [one["name"] for one in shown["configMapGenerator"]] == [
        one["name"] for one in documents(BASE / "kustomization.yaml")[0]["configMapGenerator"]
    ]


def test_three_pods_are_composed() -> None:
    services = COMPOSE["services"]
    assert services["bridge"]["deploy"]["replicas"] == 3
    assert {"postgres", "rabbitmq", "kafka"} <= services.keys()
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            assert other in services, name
    assert services["bridge"]["read_only"] and services["bridge"]["cap_drop"] == ["ALL"]


def test_the_image_holds_what_the_build_copies_and_runs_without_root() -> None:
    lines = (CONFIG / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert copied and all((CONFIG.parent / name).exists() for names in copied for name in names)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == [f"{pod()['securityContext']['runAsUser']}:{pod()['securityContext']['runAsGroup']}"]
    assert 'ENTRYPOINT ["jobbridge"]' in lines


RULES = CONFIG / "monitoring" / "alerts.yaml"
ALERTS = [rule["alert"] for group in documents(RULES)[0]["groups"] for rule in group["rules"]]


def test_rules_pass_their_tests() -> None:
    """By Prometheus' own tool."""
    if (promtool := shutil.which("promtool")) is None:
        if os.environ.get("CI") == "true":
            raise RuntimeError("promtool is missing: make servers")
        pytest.skip("no promtool: on Debian it is in the package prometheus")
    tried = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yaml"], cwd=RULES.parent, capture_output=True, text=True
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_every_rule_is_tried_and_explained() -> None:
    tried = {
        one["alertname"] for test in documents(RULES.with_name("alerts_test.yaml"))[0]["tests"]
        for one in test["alert_rule_test"] if one["exp_alerts"]
    }  # fmt: skip
    assert tried == set(ALERTS)
    guide = (GUIDES / "monitoring.md").read_text()
    assert re.findall(r"^## (Jobbridge\w+)$", guide, re.MULTILINE) == ALERTS


@pytest.mark.parametrize("path", [RULES, RULES.with_name("dashboard.json"), GUIDES / "monitoring.md"], ids=str)
def test_every_metric_that_is_named_exists(path: Path) -> None:
    """And has the labels by which it is summed."""
    told = path.read_text()
    named = {re.sub("_(total|bucket)$", "", name) for name in re.findall(r"\bjobbridge_[a-z_]+", told)}
    assert named and named - TABLE.keys() == set()
    for labels, name in re.findall(r"by \(([\w, ]+)\) \([^)]*?(jobbridge_[a-z_]+)", told):
        known = TABLE[re.sub("_(total|bucket)$", "", name)][1] | {"le"}
        assert set(labels.split(", ")) <= known, name
