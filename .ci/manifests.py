"""Holds rendered manifests against schemas, and against the rules that no schema knows.

The schemas of Kubernetes come with the package kubernetes-validate; its strict ones refuse unknown
fields. Those of the Prometheus operator's two kinds are below: just the fields that are used here,
so that a mistyped one is refused.
"""

import json
import re
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import promql_parser
import yaml

import flows
from flows import Wrong, demand

# The oldest version that is served widely, and the newest that the package knows.
VERSIONS = ["1.32", "1.37"]
DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d))+$"}
TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def closed(required, **properties):
    """An object of these fields and no others."""
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


RULE = closed(
    ["alert", "expr", "labels", "annotations"],
    alert=TEXT,
    expr=TEXT,
    **{"for": DURATION},
    labels=TEXTS,
    annotations=closed(["summary", "description"], summary=TEXT, description=TEXT),
)
SPECS = {
    "PrometheusRule": closed(
        ["groups"],
        groups={
            "type": "array",
            "items": closed(["name", "rules"], name=TEXT, rules={"type": "array", "items": RULE}),
        },
    ),
    "ServiceMonitor": closed(
        ["selector", "endpoints"],
        jobLabel=TEXT,
        selector=closed(["matchLabels"], matchLabels=TEXTS),
        endpoints={
            "type": "array",
            "items": closed(
                ["port"], port=TEXT, path=TEXT, interval=DURATION, scrapeTimeout=DURATION
            ),
        },
    ),
}


def check_schema(document):
    if document["kind"] in SPECS:
        demand(document["apiVersion"] == "monitoring.coreos.com/v1", "of another apiVersion")
        jsonschema.validate(document["spec"], SPECS[document["kind"]])
        return
    for version in VERSIONS:
        # A kind without a schema must not pass for one that fits.
        kubernetes_validate.validate(document, version, strict=True)


def check_expression(expression):
    """PromQL, once Grafana's variables have values."""
    filled = expression.replace("$__rate_interval", "5m").replace("$job", "coterie")
    try:
        promql_parser.parse(filled)
    except ValueError as error:
        raise Wrong(f"no PromQL: {filled}: {error}") from error


def pinned(image):
    """Of a tag that names one version."""
    return re.search(r":v?[0-9]+\.[0-9]+\.[0-9]+$", image) is not None


def check_pod(template, config_maps):
    spec = template["spec"]
    demand(spec["automountServiceAccountToken"] is False, "a token of the API is mounted")
    demand(spec["enableServiceLinks"] is False, "Services would put variables into the environment")
    demand(spec["securityContext"]["runAsNonRoot"], "it may run as root")
    for volume in spec.get("volumes", []):
        name = volume.get("configMap", {}).get("name")
        demand(name is None or name in config_maps, f"there is no ConfigMap {name}")
    for container in spec["containers"]:
        demand(pinned(container["image"]), f"{container['image']} has no fixed tag")
        security = container["securityContext"]
        demand(security["readOnlyRootFilesystem"], "its root file system can be written")
        demand(security["capabilities"] == {"drop": ["ALL"]}, "it has capabilities")
        demand("cpu" not in container["resources"].get("limits", {}), "its processor is throttled")
        demand("cpu" in container["resources"]["requests"], "it asks for no processor")


def check_node(stateful_set):
    spec = stateful_set["spec"]
    demand(spec["podManagementPolicy"] == "Parallel", "founding would wait for ever")
    retention = spec["persistentVolumeClaimRetentionPolicy"]
    demand(set(retention.values()) == {"Retain"}, "volumes are deleted with their pods")
    container = spec["template"]["spec"]["containers"][0]
    paths = {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    for probe, path in paths.items():
        demand(container[probe]["httpGet"]["path"] == path, f"{probe} does not ask {path}")


def check_rules(document, config_maps):
    kind = document["kind"]
    if kind in ("StatefulSet", "Deployment"):
        check_pod(document["spec"]["template"], config_maps)
    if kind == "StatefulSet":
        check_node(document)
    if kind == "PrometheusRule":
        for rule in (rule for group in document["spec"]["groups"] for rule in group["rules"]):
            check_expression(rule["expr"])
    if kind == "ConfigMap":
        for text in (text for name, text in document["data"].items() if name.endswith(".json")):
            for panel in json.loads(text)["panels"]:
                for target in panel["targets"]:
                    check_expression(target["expr"])
    if kind == "Service" and document["metadata"]["name"] == "coterie-gossip":
        demand(document["spec"]["publishNotReadyAddresses"], "founders would not find each other")


def check_rendered(path):
    """Every document of a file; their number."""
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    config_maps = {d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"}
    kinds = [document["kind"] for document in documents]
    demand(kinds.count("StatefulSet") == 1, f"{path.name} is not a cluster: {kinds}")
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']} of {path.stem}"
        try:
            check_schema(document)
            check_rules(document, config_maps)
        except KeyError as error:
            raise Wrong(f"{name}: {error} is missing") from error
        except Exception as error:
            raise Wrong(f"{name}: {getattr(error, 'message', error)}") from error
    try:
        flows.check(documents)
    except Wrong as wrong:
        raise Wrong(f"{path.stem}: {wrong}") from wrong
    return len(documents)


def check_compose(path):
    services = yaml.safe_load(path.read_text())["services"]
    for name, service in services.items():
        demand(pinned(service["image"]), f"{name}: {service['image']} has no fixed tag")
    return len(services)


def main(compose, *rendered):
    try:
        told = [f"{check_compose(Path(compose))} services of {compose}"]
        for path in map(Path, rendered):
            told.append(f"{check_rendered(path)} objects of {path.stem}")
    except Wrong as wrong:
        sys.exit(f"wrong manifest: {wrong}")
    print("checked:", ", ".join(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
