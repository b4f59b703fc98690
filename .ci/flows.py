"""Which pods the selectors of rendered manifests find, and who may speak with whom.

A selector that finds nothing is no error to Kubernetes: a disruption budget then guards nobody, and
a policy shuts out whom it should let in. So what each finds is written down here, and so is every
connection that the policies are to let through: one that is missing and one too many are both wrong.
"""

from itertools import product
from typing import NamedTuple

# The pods that each object is to select, by the workload that makes them.
SELECTED = {
    ("Service", "coterie"): "coterie",
    ("Service", "coterie-gossip"): "coterie",
    ("PodDisruptionBudget", "coterie"): "coterie",
    ("NetworkPolicy", "coterie"): "coterie",
    ("NetworkPolicy", "coterie-metrics"): "coterie",
    ("NetworkPolicy", "coterie-telemetry"): "coterie",
    ("Service", "otel-collector"): "otel-collector",
    ("NetworkPolicy", "otel-collector"): "otel-collector",
    ("Service", "jaeger"): "jaeger",
    ("NetworkPolicy", "jaeger"): "jaeger",
}
# What every cluster of nodes has to have: without a selector, it would not be missed above.
NEEDED = {
    ("Service", "coterie"),
    ("Service", "coterie-gossip"),
    ("PodDisruptionBudget", "coterie"),
    ("NetworkPolicy", "coterie"),
}
NAMESPACE = "coterie"


class Pod(NamedTuple):
    name: str
    namespace: str
    labels: dict
    # Number and protocol, by name.
    ports: dict


# Pods that are not ours: who is to be let in, who is not, and whom nodes may call.
OTHERS = [
    Pod("client", "shop", {"coterie-client": "true"}, {}),
    Pod("stranger", "shop", {"app": "shop"}, {"web": (80, "TCP")}),
    Pod("neighbour", NAMESPACE, {"app": "other"}, {"web": (80, "TCP")}),
    Pod("prometheus", "monitoring", {"app": "prometheus"}, {}),
    Pod("names", "kube-system", {"app": "dns"}, {"dns": (53, "UDP"), "dns-tcp": (53, "TCP")}),
]
ALWAYS = {
    ("client", "coterie", "client"),
    ("coterie", "coterie", "client"),
    ("coterie", "coterie", "internal"),
    ("coterie", "coterie", "internal-udp"),
    ("coterie", "names", "dns"),
    ("coterie", "names", "dns-tcp"),
}
# What comes on top with a workload, or an object of a kind.
WITH_COLLECTOR = {("coterie", "otel-collector", "otlp"), ("otel-collector", "jaeger", "otlp")}
WITH_PROMETHEUS = {("prometheus", "coterie", "admin")}


class Wrong(Exception):
    """What is wrong with the manifests."""


def demand(holds, told):
    if not holds:
        raise Wrong(told)


def matches(selector, labels):
    """None selects nothing, and an empty one everything, as Kubernetes has it."""
    if selector is None:
        return False
    unknown = set(selector) - {"matchLabels"}
    demand(not unknown, f"{unknown} of a selector is not understood here")
    return selector.get("matchLabels", {}).items() <= labels.items()


def pods_of(documents):
    """One pod of each workload, whose own selectors have to find just it."""
    pods = []
    for document in documents:
        if document["kind"] not in ("StatefulSet", "Deployment"):
            continue
        name, spec = document["metadata"]["name"], document["spec"]
        labels, pod = spec["template"]["metadata"]["labels"], spec["template"]["spec"]
        spread = pod.get("topologySpreadConstraints", [])
        for selector in [spec["selector"], *(one["labelSelector"] for one in spread)]:
            demand(selector and matches(selector, labels), f"{name} does not select its own pods")
        ports = [port for container in pod["containers"] for port in container.get("ports", [])]
        ports = {port["name"]: (port["containerPort"], port["protocol"]) for port in ports}
        pods.append(Pod(name, document["metadata"]["namespace"], labels, ports))
    return pods


def selector_of(document):
    """The selector of pods that an object has, as matchLabels; none if it has none."""
    spec = document["spec"]
    if document["kind"] == "Service":
        selector = spec.get("selector")
        return {"matchLabels": selector} if selector else None
    return spec.get("podSelector" if document["kind"] == "NetworkPolicy" else "selector")


def check_selectors(documents, pods):
    found = set()
    for document in documents:
        key = (document["kind"], document["metadata"]["name"])
        if key[0] not in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            continue
        demand(key in SELECTED, f"{key}: nobody has written down what it is to select")
        selector = selector_of(document)
        selected = {pod.name for pod in [*pods, *OTHERS] if matches(selector, pod.labels)}
        demand(selected == {SELECTED[key]}, f"{key} selects {selected or 'no pod'}")
        found.add(key)
        if key[0] == "Service":
            (pod,) = (pod for pod in pods if pod.name in selected)
            for port in document["spec"]["ports"]:
                demand(port["targetPort"] in pod.ports, f"{key}: no port {port['targetPort']}")
    demand(found >= NEEDED, f"{NEEDED - found} is missing")


def check_monitors(documents):
    """Each endpoint is the port of one Service: of two, every pod would be scraped twice."""
    services = [document for document in documents if document["kind"] == "Service"]
    for monitor in (document for document in documents if document["kind"] == "ServiceMonitor"):
        selector, name = monitor["spec"]["selector"], monitor["metadata"]["name"]
        meant = [s for s in services if matches(selector, s["metadata"].get("labels", {}))]
        for endpoint in monitor["spec"]["endpoints"]:
            having = [
                service["metadata"]["name"]
                for service in meant
                if endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
            ]
            demand(having == ["coterie-gossip"], f"ServiceMonitor {name} scrapes {having}")


def is_peer(peer, pod, namespace):
    """Whether a pod is meant by a peer of a policy in a namespace."""
    unknown = set(peer) - {"podSelector", "namespaceSelector"}
    demand(not unknown, f"{unknown} of a peer is not understood here")
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": pod.namespace}
        if not matches(peer["namespaceSelector"], labels):
            return False
    elif pod.namespace != namespace:
        return False
    return "podSelector" not in peer or matches(peer["podSelector"], pod.labels)


def lets(policies, direction, own, other, port, ports):
    """Whether the policies of a pod let a connection through; one without policies is open."""
    of_pod = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == own.namespace
        and matches(policy["spec"]["podSelector"], own.labels)
        and direction in policy["spec"]["policyTypes"]
    ]
    if not of_pod:
        return True
    number, protocol = ports[port]
    peers = "from" if direction == "Ingress" else "to"
    for policy in of_pod:
        for rule in policy["spec"].get(direction.lower(), []):
            named = {(given["port"], given["protocol"]) for given in rule.get("ports", [])}
            fits = "ports" not in rule or named & {(port, protocol), (number, protocol)}
            known = peers not in rule or any(
                is_peer(peer, other, own.namespace) for peer in rule[peers]
            )
            if fits and known:
                return True
    return False


def check_flows(documents, pods):
    """Every connection to a pod of ours, and every one from a node."""
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    ours, all_pods = {pod.name for pod in pods}, [*pods, *OTHERS]
    open_flows = {
        (source.name, target.name, port)
        for source, target in product(all_pods, all_pods)
        if target.name in ours or source.name == "coterie"
        for port in target.ports
        if lets(policies, "Egress", source, target, port, target.ports)
        and lets(policies, "Ingress", target, source, port, target.ports)
    }
    expected = set(ALWAYS)
    if "otel-collector" in ours:
        expected |= WITH_COLLECTOR
    if any(document["kind"] == "ServiceMonitor" for document in documents):
        expected |= WITH_PROMETHEUS
    demand(open_flows >= expected, f"shut out: {sorted(expected - open_flows)}")
    demand(open_flows <= expected, f"let through: {sorted(open_flows - expected)}")


def check(documents):
    pods = pods_of(documents)
    check_selectors(documents, pods)
    check_monitors(documents)
    check_flows(documents, pods)
