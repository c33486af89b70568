"""The exposition: it parses, leaves no counter out, and says what the documentation and the dashboard say."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.http.metrics import LABELLED, PLAIN, SHOWN_OTHERWISE, Exposition
from app.wire.protocol import GET, IS_ALIVE, PUT
from tests.http.running import MEMORY_BYTES, Running, running
from tests.wire.datagrams import request

REPOSITORY = Path(__file__).parents[2]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def node() -> Iterator[Running]:
    """One that has a peer in its file and has answered a request, so that every label is there."""
    with running(others=1) as node:
        node.datagram(request(b"1" * 16, command=IS_ALIVE))
        yield node


def scrape(node: Running) -> Samples:
    text = node.ask("/metrics").body.decode()
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, f"{family.name} has no help text"
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples, f"{key} twice"
            samples[key] = sample.value
    return samples


def names(node: Running) -> set[str]:
    """Of metrics, as one types them: a histogram's by its family. Also of those that have no sample yet."""
    families = text_string_to_metric_families(node.ask("/metrics").body.decode())
    return {family.name + "_total" * (family.type == "counter") for family in families}


def test_requests_are_there_by_command_and_code_and_in_the_histogram() -> None:
    with running() as node:
        node.datagram(request(b"1" * 16, command=PUT, key=b"k", value=b"v"))
        node.datagram(request(b"2" * 16, command=GET, key=b"k"))
        node.datagram(request(b"3" * 16, command=GET, key=b"none"))
        samples = scrape(node)
        requests = {labels: value for (name, labels), value in samples.items() if name == "kv_requests_total"}
        assert requests == {
            (("code", "NO_ERR"), ("command", "PUT")): 1,
            (("code", "NO_ERR"), ("command", "GET")): 1,
            (("code", "KEY_DNE_ERR"), ("command", "GET")): 1,
        }
        assert samples["kv_request_duration_seconds_count", (("how", "local"),)] == 3
        assert samples["kv_store_entries", ()] == 1
        assert samples["kv_cluster_slots", (("role", "primary"),)] == 256
        assert samples["kv_ready", ()] == 1
        assert samples["kv_cluster_servers", (("state", "alive"),)] == 1
        assert samples["kv_cluster_whole", ()] == 1
        assert samples["kv_cluster_copies_missing", ()] == 0, "its file has no place for more than one"
        assert samples["kv_cluster_slots_open", (("operation", "write"),)] == 256
        assert samples["kv_memory_limit_bytes", ()] == MEMORY_BYTES


def test_buckets_only_rise_and_end_with_the_count(node: Running) -> None:
    samples = scrape(node)
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (name, labels), value in samples.items():
        if name.endswith("_bucket"):
            row = name.removesuffix("_bucket"), dict(labels).get("how", "")
            rows.setdefault(row, []).append((float(dict(labels)["le"]), value))
    assert set(rows) == {("kv_event_loop_lag_seconds", "")} | {
        ("kv_request_duration_seconds", how) for how in ("local", "forwarded", "replicated", "waited")
    }
    for (name, how), buckets in rows.items():
        assert buckets == sorted(buckets)
        assert [count for _, count in buckets] == sorted(count for _, count in buckets)
        assert buckets[-1] == (float("inf"), samples[name + "_count", (("how", how),) if how else ()])


def test_every_counter_of_the_node_is_shown(node: Running) -> None:
    snapshot = node.node.snapshot()
    for field in snapshot:
        shown = [field in PLAIN, field.startswith(tuple(LABELLED)), field.startswith(SHOWN_OTHERWISE)]
        assert any(shown), f"{field} is in no metric: give it a row in PLAIN or LABELLED"
    assert set(PLAIN) <= set(snapshot), "a metric of a counter that is not there"


def test_names_are_as_prometheus_wants_them(node: Running) -> None:
    text = node.ask("/metrics").body.decode()
    for family in text_string_to_metric_families(text):
        assert re.fullmatch("(kv|process)(_[a-z0-9]+)+", family.name)
        assert not re.search("_(ms|us|mib|kb)(_|$)", family.name), "base units only"
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)


def test_a_scrape_can_give_way_after_each_family(node: Running) -> None:
    pauses: list[None] = []
    text = Exposition(node.node, lambda: pauses.append(None)).text().decode()
    assert len(pauses) > len(list(text_string_to_metric_families(text))) - 10  # the process's own come at once


# --- what is said elsewhere ------------------------------------------------------------------------------------------


def test_the_documentation_names_every_metric_and_no_other(node: Running) -> None:
    text = (REPOSITORY / "docs" / "monitoring.md").read_text()
    tables = text.partition("\n## Metrics\n")[2].partition("\n## Adding")[0]
    documented = set()
    for line in tables.splitlines():
        if line.startswith(("| kv_", "| process_")):
            documented |= set(re.findall("(?:kv|process)_[a-z0-9_]+", line.split("|")[1]))
    assert documented == names(node)


def test_the_dashboard_asks_only_for_metrics_that_exist(node: Running) -> None:
    dashboard = json.loads((REPOSITORY / "deploy" / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    there = names(node) | {name for name, _ in scrape(node)}
    used = set()
    for expression in expressions:
        found = set(re.findall(r"\b(?:kv|process)_[a-z0-9_]+", expression))
        assert found, f"no metric in {expression}"
        used |= found
    assert used <= there, f"{used - there} do not exist"
    assert len(used) > 20
    identities = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identities)) == len(identities)
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, f"{panel['title']} is wider than the page"


def test_the_alerts_ask_only_for_metrics_that_exist(node: Running) -> None:
    text = (REPOSITORY / "deploy" / "alerts.yaml").read_text()
    expressions = re.findall(r"^ +expr: (.*)$", text, re.MULTILINE)
    assert len(expressions) == text.count("- alert: ") > 5
    used = set(re.findall(r"\bkv_[a-z0-9_]+", " ".join(expressions)))
    assert used <= names(node), f"{used - names(node)} do not exist"


def test_the_dashboards_labels_exist(node: Running) -> None:
    """A selector or grouping by a label that no sample has shows nothing, and says nothing either."""
    text = (REPOSITORY / "deploy" / "grafana-dashboard.json").read_text()
    labels = {label for _, labels in scrape(node) for label, _ in labels} | {"instance", "job"}
    for group in re.findall(r"by \(([a-z_, ]+)\)", text):
        assert set(group.split(", ")) <= labels, group
    for selector in re.findall(r"\{([^{}\"]*)=~?\\\"", text):
        assert {part.strip() for part in selector.split(",")} <= labels, selector
