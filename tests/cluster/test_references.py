"""What one part of the manifests, compose file, units and docs names, another part has."""

import re
import shlex

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.test_manifests import BASE, COMPOSE, ROOT, pods, rendered, the
from vpetl_ray.submit import DEFAULT_ADDRESS
from vpetl_ray.tracking_server import server_environment

SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
DOCS = (ROOT / "docs" / "cluster.md").read_text()
RAY_PORTS = {"gcs-server": 6379, "dashboard": 8265}


def rendered_or_base(overlay):
    return BASE if overlay == "base" else rendered(overlay)


def container_ports(documents):
    """By workload, the names and numbers of its ports."""
    return {
        name: {
            p.get("name"): p["containerPort"] for c in pod["containers"] for p in c.get("ports", [])
        }
        for name, pod in pods(documents)
    }


@pytest.mark.parametrize("overlay", ["base", "small", "gpu"])
def test_every_volume_and_secret_that_a_pod_names_is_there(overlay):
    documents = rendered_or_base(overlay)
    claims = {d["metadata"]["name"] for d in documents if d["kind"] == "PersistentVolumeClaim"}
    used = set()
    for name, pod in pods(documents):
        volumes = {v["name"]: v for v in pod.get("volumes", [])}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                used.add(volume["persistentVolumeClaim"]["claimName"])
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", []):
                own = "data" if name.startswith("StatefulSet") else None
                assert mount["name"] in volumes or mount["name"] == own, (name, mount)
    assert used == claims  # each is there, and none for nobody


def test_every_secret_is_one_that_the_docs_tell_how_to_make():
    made = {}
    for line in re.findall(r"^kubectl .* create secret generic (.*)$", DOCS, re.MULTILINE):
        made[line.split()[0]] = set(re.findall(r"--from-literal=([a-z_-]+)=", line))
    wanted = {}
    for _, pod in pods(BASE):
        for container in pod["containers"]:
            for entry in container.get("env", []):
                key = entry.get("valueFrom", {}).get("secretKeyRef")
                if key:
                    wanted.setdefault(key["name"], set()).add(key["key"])
    token = the(BASE, "RayCluster")["spec"]["authOptions"]["secretName"]
    wanted.setdefault(token, set()).add("auth_token")  # the key that KubeRay reads
    assert made == wanted


@pytest.mark.parametrize("overlay", ["base", "small", "gpu"])
def test_every_port_that_is_named_is_one_that_a_container_opens(overlay):
    documents = rendered_or_base(overlay)
    ports = container_ports(documents)
    assert ports["RayCluster vpetl head"] == RAY_PORTS
    for service in (d for d in documents if d["kind"] == "Service"):
        wanted = service["spec"]["selector"]["app.kubernetes.io/name"]
        [opened] = [p for name, p in ports.items() if name.split()[-1] == wanted]
        for port in service["spec"]["ports"]:
            assert opened[port["targetPort"]] == port["port"]
    for name, pod in pods(documents):
        for container in pod["containers"]:
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(kind, {}).get("httpGet")
                assert probe is None or probe["port"] in ports[name], name
    every = {number for opened in ports.values() for number in opened.values()}
    for policy in (d for d in documents if d["kind"] == "NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            assert {port["port"] for port in rule.get("ports", [])} <= every


@pytest.mark.parametrize("overlay", ["small", "gpu"])
def test_every_label_that_is_selected_is_on_a_pod(overlay):
    documents = rendered(overlay)
    labels = set()
    for document in documents:
        template = document.get("spec", {}).get("template", {})
        labels |= set(template.get("metadata", {}).get("labels", {}).items())
    cluster = the(documents, "RayCluster")["metadata"]["name"]
    # What KubeRay, its operator and Kubernetes' jobs put on pods themselves.
    labels |= {("ray.io/cluster", cluster), ("ray.io/node-type", "head")}
    labels |= {("app.kubernetes.io/name", "kuberay-operator")}
    assert the(documents, "RayJob")["spec"]["clusterSelector"] == {"ray.io/cluster": cluster}
    for policy in (d for d in documents if d["kind"] == "NetworkPolicy"):
        selectors = [policy["spec"]["podSelector"]]
        for rule in policy["spec"]["ingress"]:
            selectors += [source["podSelector"] for source in rule["from"]]
        for selector in selectors:
            assert set(selector.get("matchLabels", {}).items()) <= labels
            for wish in selector.get("matchExpressions", []):
                for value in wish.get("values", []):
                    assert (wish["key"], value) in labels


def test_services_of_the_compose_file_find_each_other():
    words = {name: shlex.split(service.get("command", "")) for name, service in SERVICES.items()}
    [gcs] = re.findall(r"--port=(\d+)", " ".join(words["head"]))
    [dashboard] = re.findall(r"--dashboard-port=(\d+)", " ".join(words["head"]))
    assert f"--address=head:{gcs}" in words["worker"]
    assert SERVICES["head"]["healthcheck"]["test"][-1] == f"head:{gcs}"
    assert f"http://head:{dashboard}" in words["search"]
    assert f"127.0.0.1:{dashboard}:{dashboard}" in SERVICES["head"]["ports"]
    assert DEFAULT_ADDRESS.endswith(f":{dashboard}")
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        for condition in service.get("depends_on", {}).values():
            assert condition == {"condition": "service_healthy"}
    for name in {n for s in SERVICES.values() for n in s.get("depends_on", {})}:
        assert "healthcheck" in SERVICES[name], name
    volumes = yaml.safe_load(COMPOSE.read_text())["volumes"]
    named = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])}
    assert named == set(volumes)


def test_mlflow_of_the_compose_file_reaches_its_database_and_is_reached(tmp_path):
    given = {
        name: re.sub(r"\$\{.*\}", "long-enough-and-secret", value)
        for name, value in SERVICES["mlflow"]["environment"].items()
    }
    read = server_environment(given, tmp_path)
    database = SERVICES["postgres"]["environment"]
    user, name = database["POSTGRES_USER"], database["POSTGRES_DB"]
    assert read["MLFLOW_BACKEND_STORE_URI"].startswith(f"postgresql+psycopg2://{user}:")
    assert read["MLFLOW_BACKEND_STORE_URI"].endswith(f"@postgres:5432/{name}")
    port = read["MLFLOW_PORT"]
    assert SERVICES["head"]["environment"]["MLFLOW_TRACKING_URI"] == f"http://mlflow:{port}"
    assert f"mlflow:{port}" in read["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert f"127.0.0.1:{port}/health" in SERVICES["mlflow"]["healthcheck"]["test"][-1]
    assert SERVICES["mlflow"]["ports"] == [f"127.0.0.1:{port}:{port}"]


@pytest.mark.parametrize("unit", ["ray-head", "ray-worker@"])
def test_the_units_put_the_python_of_their_environment_first(unit):
    text = (ROOT / "cluster" / "systemd" / f"{unit}.service").read_text()
    [program] = re.findall(r"^ExecStart=(\S+)/ray ", text, re.MULTILINE)
    [path] = re.findall(r"^Environment=PATH=(.*)$", text, re.MULTILINE)
    assert path.split(":")[0] == program


def test_ray_up_takes_the_file_for_a_cloud_and_for_machines_that_are_there():
    text = (ROOT / "cluster" / "ray-up.yaml").read_text()
    cloud = yaml.safe_load(text)
    validate_config(prepare_config(cloud))
    with pytest.raises(jsonschema.ValidationError, match="idle_minutes"):
        validate_config(prepare_config({**yaml.safe_load(text), "idle_minutes": 1}))
    # What stands at its end, without the signs of a comment, in place of what it says to leave out.
    lines = text.partition("# On machines that you have:\n")[2].splitlines()
    machines = yaml.safe_load("\n".join(line[2:] for line in lines if not line.startswith("# (")))
    assert set(machines) == {"provider", "auth"}
    gone = re.search(r"\(and no (.*)\)", text).group(1).replace(" or ", ", ").split(", ")
    local = {k: v for k, v in yaml.safe_load(text).items() if k not in gone} | machines
    local["max_workers"] = 2
    prepared = prepare_config(local)
    validate_config(prepared)
    [node_type] = prepared["available_node_types"].values()
    assert node_type["max_workers"] == 2


def test_files_that_the_docs_name_are_there():
    for path in set(re.findall(r"(?<!/)\b(?:cluster|docker|search_spaces|docs)/[\w./-]*\w", DOCS)):
        assert path == "docker/.env" or (ROOT / path).exists(), path
    for target in re.findall(r"\]\(([a-z_]+\.md)\)", DOCS):
        assert (ROOT / "docs" / target).exists(), target
