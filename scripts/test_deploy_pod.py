#!/usr/bin/env python3
"""Prints how podman runs the container of deploy/kubernetes.yaml, an argument a line, as Kubernetes would.

usage: scripts/test_deploy_pod.py MANIFEST FOLDER {run|probes|stop}

run: arguments of `podman run`; volumes are folders in FOLDER, each with the volume's name.
probes: one line for each probe, its scheme, port and path.
stop: the preStop command.
"""

import sys
from pathlib import Path

import yaml


def main() -> int:
    if len(sys.argv) != 4:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    documents = list(yaml.safe_load_all(Path(sys.argv[1]).read_text()))
    folder = Path(sys.argv[2])
    (workload,) = [d for d in documents if d["kind"] == "StatefulSet"]
    services = [d for d in documents if d["kind"] == "Service"]
    spec = workload["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}

    # What balances must find the pods, and a port that they have.
    labels = workload["spec"]["template"]["metadata"]["labels"]
    for document in documents:
        selector = document["spec"].get("selector") or document["spec"]["podSelector"]
        selector = selector.get("matchLabels", selector)
        assert selector.items() <= labels.items(), f"{document['kind']} selects {selector}, the pods are {labels}"
    for service in services:
        assert all(p["targetPort"] in ports for p in service["spec"]["ports"]), f"no such port: {service}"
    assert workload["spec"]["serviceName"] in [s["metadata"]["name"] for s in services]

    match sys.argv[3]:
        case "run":
            lines = run(spec, container, services, folder)
            volumes = {v["name"] for v in spec["volumes"]}
            volumes |= {c["metadata"]["name"] for c in workload["spec"]["volumeClaimTemplates"]}
            missing = {m["name"] for m in container["volumeMounts"]} - volumes
            assert not missing, f"volumes that nobody declares: {missing}"
        case "probes":
            lines = []
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                get = container[name]["httpGet"]
                lines.append(f"{get['scheme'].lower()} {ports[get['port']]} {get['path']}")
        case "stop":
            lines = container["lifecycle"]["preStop"]["exec"]["command"]
        case other:
            print(f"error: {other}", file=sys.stderr)
            return 2
    print("\n".join(lines))
    return 0


def run(spec: dict, container: dict, services: list[dict], folder: Path) -> list[str]:
    pod, own = spec["securityContext"], container["securityContext"]
    assert pod["runAsNonRoot"] and pod["seccompProfile"]["type"] == "RuntimeDefault"
    arguments = [f"--user={pod['runAsUser']}:{pod['runAsGroup']}", f"--group-add={pod['fsGroup']}"]
    if own["readOnlyRootFilesystem"]:
        arguments += ["--read-only", "--read-only-tmpfs=false"]
    if not own["allowPrivilegeEscalation"]:
        arguments.append("--security-opt=no-new-privileges")
    arguments += [f"--cap-drop={name}" for name in own["capabilities"]["drop"]]
    if spec.get("enableServiceLinks", True):
        for service in services:
            name = service["metadata"]["name"].upper().replace("-", "_")
            port = service["spec"]["ports"][0]["port"]
            arguments.append(f"--env={name}_PORT=tcp://10.96.0.1:{port}")
    for mount in container["volumeMounts"]:
        mode = "ro" if mount.get("readOnly") else "rw"
        arguments.append(f"--volume={folder / mount['name']}:{mount['mountPath']}:{mode}")
    return [*arguments, f"localhost/{container['image']}", *container["args"]]


if __name__ == "__main__":
    sys.exit(main())
