"""Manifests, compose file, units and scripts: valid, safe, and true to this repository."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray.scripts.scripts import start as ray_start

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
CRDS = Path(os.environ.get("VPETL_CRDS", ROOT.parent / "shared" / "crds"))
COMPOSE = ROOT / "docker" / "compose.yaml"
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
KUBERNETES = "1.31"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPTS = PYPROJECT["project"]["scripts"]


def load(path):
    documents = yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader)  # a megabyte of CRD
    return [document for document in documents if document]


def rendered(overlay):
    """What `kubectl apply -k` would send."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here to render the overlay with")
    folder = KUBERAY / ("base" if overlay == "base" else f"overlays/{overlay}")
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


BASE = [
    document
    for path in sorted((KUBERAY / "base").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in load(path)
]
OVERLAYS = ["base", "small", "gpu"]


def the(documents, kind, name=None):
    [found] = [d for d in documents if d["kind"] == kind and name in (None, d["metadata"]["name"])]
    return found


def pods(documents):
    """Every pod template, with a name to complain by."""
    for document in documents:
        name, spec = f"{document['kind']} {document['metadata']['name']}", document.get("spec", {})
        if document["kind"] == "RayCluster":
            yield f"{name} head", spec["headGroupSpec"]["template"]["spec"]
            for group in spec["workerGroupSpecs"]:
                yield f"{name} {group['groupName']}", group["template"]["spec"]
        elif document["kind"] == "RayJob":
            yield name, spec["submitterPodTemplate"]["spec"]
        elif "template" in spec:
            yield name, spec["template"]["spec"]


def strict(schema):
    """The same schema, which takes no field that it does not name."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    known = {key: strict(value) for key, value in schema.items()}
    properties = schema.get("properties")
    is_open = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(properties, dict) and "type" in schema and not is_open:
        known.setdefault("additionalProperties", False)
    return known


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_ray_objects_are_what_kuberay_defines(overlay, kind):
    path = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"KubeRay's definitions are not here: {path}")
    [definition] = load(path)
    [schema] = [
        v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == "v1"
    ]
    schema["properties"]["metadata"] = {"type": "object"}
    document = the(BASE if overlay == "base" else rendered(overlay), kind)
    jsonschema.validate(document, strict(schema))
    wrong = {**document, "spec": {**document["spec"], "wrokerGroups": []}}
    with pytest.raises(jsonschema.ValidationError, match="wrokerGroups"):
        jsonschema.validate(wrong, strict(schema))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_rest_is_what_kubernetes_defines(overlay):
    documents = BASE if overlay == "base" else rendered(overlay)
    plain = [d for d in documents if not d["apiVersion"].startswith("ray.io/")]
    kinds = {document["kind"] for document in plain}
    assert kinds >= {"Deployment", "StatefulSet", "Service", "NetworkPolicy", "Namespace"}
    for document in plain:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_bounded_and_without_rights(overlay):
    documents = BASE if overlay == "base" else rendered(overlay)
    names = []
    for name, pod in pods(documents):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            names.append(name)
            assert set(container["resources"]) == {"requests", "limits"}, name
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"], name
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            claims = {volume["name"] for volume in pod.get("volumes", [])} | {"data"}
            assert mounted <= claims, name
    assert len(names) >= 5
    for kind, name in (("Deployment", "mlflow"), ("StatefulSet", "postgres")):
        [container] = the(documents, kind, name)["spec"]["template"]["spec"]["containers"]
        assert {"readinessProbe", "livenessProbe"} <= set(container), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_cluster_asks_for_a_token_and_its_head_runs_no_trial(overlay):
    spec = the(BASE if overlay == "base" else rendered(overlay), "RayCluster")["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "vpetl-ray-token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["rayVersion"] == ray.__version__
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    if overlay == "gpu":
        [gpu] = [group for group in spec["workerGroupSpecs"] if group["groupName"] == "gpu"]
        assert gpu["maxReplicas"] > 0
        [container] = gpu["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def commands():
    """Every command line of ours in manifests, compose file, units and scripts."""
    found = []
    gpu = load(KUBERAY / "overlays" / "gpu" / "kustomization.yaml")[0]
    for patch in gpu["patches"]:
        found += [op["value"] for op in yaml.safe_load(patch["patch"]) if "entry" in op["path"]]
    found.append(the(BASE, "RayJob")["spec"]["entrypoint"])
    for _, pod in pods(BASE):
        found += [shlex.join(c["command"]) for c in pod["containers"] if "command" in c]
    services = yaml.safe_load(COMPOSE.read_text())["services"].values()
    found += [service["command"] for service in services if "command" in service]
    for unit in sorted((ROOT / "cluster" / "systemd").glob("*.service")):
        found += re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    up = yaml.safe_load((ROOT / "cluster" / "ray-up.yaml").read_text())
    found += up["head_start_ray_commands"] + up["worker_start_ray_commands"]
    found.append(" ".join(re.findall(r"^CMD \[(.*)\]$", DOCKERFILE, re.MULTILINE)).replace(",", ""))
    sbatch = (ROOT / "cluster" / "slurm.sbatch").read_text().replace("\\\n", " ")
    start = re.search(r"start=\((.*)\)", sbatch).group(1)
    found += [f"{start} {more}" for more in re.findall(r'"\$\{start\[@\]\}"(.*?)&', sbatch)]
    return [" ".join(command.split()) for command in found]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_is_one_that_runs(command, tmp_path):
    command = re.sub(r"\$\{?[A-Za-z_]+\}?", "1", command.replace("%i", "head"))
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program = Path(words[0]).name
    if program == "ray":
        assert words[1] in {"start", "stop"}
        if words[1] == "start":
            ray_start.make_context("ray start", words[2:])  # click reads every option
        return
    if program in SCRIPTS:
        module = SCRIPTS[program].partition(":")[0]
        arguments = words[1:]
    else:
        assert words[:2] == ["python", "-m"], command
        module, arguments = words[2], words[3:]
    arguments = [word.replace("/app/", f"{ROOT}/") for word in arguments]
    if module == "vpetl_ray.search" and "--help" not in arguments:
        arguments = [w for w in arguments if not w.startswith("resources.gpus")]
        one_cpu = ["--set", "resources.cpus_per_worker=1"]
        arguments = [*drop_lonely_set(arguments), "--dry-run", *one_cpu]
        expected = 0
    elif module == "vpetl_ray.submit":
        arguments[arguments.index("--address") + 1] = "http://127.0.0.1:1"
        expected = 2  # read whole, and nobody there
    else:
        expected = 0 if "--help" in arguments else 2  # without its secrets it does not start
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith(("POSTGRES", "MLFLOW"))},
    )  # fmt: skip
    assert done.returncode == expected, done.stderr
    assert "Usage" not in done.stderr
    if module == "vpetl_ray.submit":
        assert "no Ray job server" in done.stderr


def drop_lonely_set(words):
    return [w for i, w in enumerate(words) if w != "--set" or "=" in "".join(words[i + 1 : i + 2])]


def test_the_commands_are_all_found():
    found = commands()
    assert sum("vpetl_ray.search" in command for command in found) >= 3
    assert sum("ray start" in command for command in found) >= 8
    assert "vpetl-mlflow-server" in found


def variables():
    """Every environment name in manifests and compose file."""
    names = set()
    for _, pod in pods(BASE):
        for container in pod["containers"]:
            names |= {entry["name"] for entry in container.get("env", [])}
    for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
        names |= set(service.get("environment", {}))
    names |= set(re.findall(r"\b(VPETL_[A-Z]+)=", DOCKERFILE))
    for unit in (ROOT / "cluster" / "systemd").glob("*.service"):
        names |= set(re.findall(r"\b([A-Z_]{6,})=", unit.read_text()))
    return sorted(names)


def test_every_variable_is_read_by_something():
    ours = "".join(path.read_text() for path in (ROOT / "vpetl_ray").rglob("*.py"))
    package = Path(ray.__file__).parent / "_private"
    rays = "".join(path.read_text() for path in package.rglob("*.py"))
    of_images = {"PGDATA", "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"}
    import mlflow.environment_variables as of_mlflow  # noqa: PLC0415 - slow

    for name in variables():
        known = name in ours or name in of_images or hasattr(of_mlflow, name) or name in rays
        assert known, f"nobody reads {name}"
    assert len(variables()) > 12


def test_images_paths_and_ports_fit_together():
    tags = set(re.findall(r"vpetl-ray:(\w+)", DOCKERFILE))
    assert tags == {"cpu", "cuda"}
    for overlay in ("base", "overlays/gpu"):
        [entry] = load(KUBERAY / overlay / "kustomization.yaml")[0]["images"]
        assert entry["newTag"] in tags
    images = {c["image"] for _, pod in pods(BASE) for c in pod["containers"]}
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    images |= {service["image"].removesuffix(":cpu") for service in services.values()}
    assert images == {"vpetl-ray", "postgres:15"}
    made = re.search(r"mkdir -p (.*?) \\", DOCKERFILE).group(1).split()
    for name, pod in pods(BASE):
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", []):
                known = (*made, "/data", "/dev/shm", "/var/lib/postgresql/data")
                assert mount["mountPath"] in known, name
    head = the(BASE, "RayCluster")["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    environment = {entry["name"]: entry.get("value") for entry in head["env"]}
    service = the(BASE, "Service", "mlflow")
    assert environment["MLFLOW_TRACKING_URI"] == (
        f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    )
    copied = re.findall(r"^COPY (?:--\S+ )*(.*)$", DOCKERFILE, re.MULTILINE)
    for line in copied:
        for source in line.split()[:-1]:
            assert source.startswith("/") or (ROOT / source).exists(), line
    kept = (ROOT / ".dockerignore").read_text()
    for source in ("vpetl_ray", "search_spaces", "constraints.txt", "docker/install.sh"):
        assert f"!{source}" in kept


def test_nothing_listens_beyond_loopback_and_no_secret_is_written_down():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        for variable, value in service.get("environment", {}).items():
            if re.search("TOKEN|PASSWORD|SECRET", variable):
                assert re.fullmatch(r"\$\{[A-Z_]+:\?.*\}", value), variable
    written = (ROOT / "docker" / "secrets.sh").read_text()
    for name in set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE.read_text())):
        assert name in written
    for _, pod in pods(BASE):
        for container in pod["containers"]:
            for entry in container.get("env", []):
                if re.search("TOKEN|PASSWORD|SECRET", entry["name"]):
                    assert "secretKeyRef" in entry["valueFrom"], entry["name"]
    starts = [
        *(ROOT / "cluster").rglob("*"),
        *(ROOT / "docker").iterdir(),
        ROOT / "docs/cluster.md",
    ]
    for path in (p for p in starts if p.is_file() and p.suffix != ".py"):
        text = path.read_text()
        if "ray start" in text:
            assert "RAY_AUTH_MODE" in text, path
        if "ray start" in text and "--head" in text and path != COMPOSE:
            assert "--dashboard-host=127.0.0.1" in text, path


def test_scripts_are_shell_and_secrets_are_fresh():
    for path in (ROOT / "cluster" / "slurm.sbatch", *(ROOT / "docker").glob("*.sh")):
        subprocess.run(["bash", "-n", path], check=True)
    first, second = (
        subprocess.run(
            ["sh", ROOT / "docker" / "secrets.sh"], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    )
    lines = first.split()
    assert all(re.fullmatch(r"[A-Z_]+=[0-9a-f]{48}", line) for line in lines)
    assert not set(lines) & set(second.split())


def test_the_image_is_built_in_two_stages_and_runs_as_whom_the_manifests_say():
    lines = [line.split() for line in DOCKERFILE.splitlines() if line and line[0] != "#"]
    words = {line[0] for line in lines}
    assert [line[1:] for line in lines if line[0] == "FROM"] == [
        ["${BASE_IMAGE}", "AS", "build"], ["${BASE_IMAGE}"],
    ]  # fmt: skip
    assert {line[1].partition("=")[0] for line in lines if line[0] == "ARG"} == {
        "BASE_IMAGE", "DEVICE", "TORCH_INDEX",
    }  # fmt: skip
    assert not words & {"ADD", "EXPOSE", "VOLUME"}
    last_stage = lines[max(i for i, line in enumerate(lines) if line[0] == "FROM") :]
    [user] = [line[1] for line in last_stage if line[0] == "USER"]
    # What is installed comes from the first stage as it is: no index, cache or compiler is left.
    assert not [line for line in last_stage if "pip" in line or "apt-get" in line]
    for name, pod in pods(BASE):
        if any(c["image"] == "vpetl-ray" for c in pod["containers"]):
            context = pod["securityContext"]
            assert user == f"{context['runAsUser']}:{context['runAsGroup']}", name
    install = (ROOT / "docker" / "install.sh").read_text()
    assert "UV_NO_CACHE=1" in install
    assert all("--no-cache-dir" in line for line in install.splitlines() if "bin/pip" in line)
    for device in ("cpu", "cuda"):
        assert re.search(rf"^  {device}\)", install, re.MULTILINE)


def test_the_dockerfile_is_clean_for_hadolint():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, ROOT / "docker" / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_compose_file_is_read_by_a_parser_of_its_own_and_wants_its_secrets(tmp_path):
    """Podman itself is only asked for its version: none is needed to parse."""
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\necho podman version 5.0.0\n")
    podman.chmod(0o755)
    (tmp_path / "none").write_text("")
    secrets = subprocess.run(
        ["sh", ROOT / "docker" / "secrets.sh"], capture_output=True, check=True
    )
    (tmp_path / "secrets").write_bytes(secrets.stdout)

    def config(env_file):
        return subprocess.run(
            [
                Path(sys.executable).with_name("podman-compose"), "--podman-path", podman,
                "--env-file", tmp_path / env_file, "-f", COMPOSE, "config",
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    read = config("secrets")
    assert read.returncode == 0, read.stderr
    services = yaml.safe_load(read.stdout)["services"]
    assert set(services) == {"head", "worker", "search", "mlflow", "postgres"}
    for name in ("head", "worker", "search"):  # what the anchors have put together
        assert re.fullmatch("[0-9a-f]{48}", services[name]["environment"]["RAY_AUTH_TOKEN"])
        assert services[name]["cap_drop"] == ["ALL"]
    refused = config("none")
    assert refused.returncode != 0
    assert "run docker/secrets.sh first" in refused.stderr
