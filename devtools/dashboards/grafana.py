"""Dashboards as Grafana takes them: JSON of its schema 42 (Grafana 12 and 13), importable as it is or by the sidecar.

Variables: the data source, then cluster, namespace, job and instance, each offering what the ones before it leave. The
first two may be missing from a Prometheus outside of Kubernetes, and then match everything. `All` of the jobs means
those that serve our metrics, so that what every process tells (memory, open files) is that of nodes only.
"""

import json
from typing import Any

from devtools.dashboards.model import Dashboard, Kind, Panel, Query, Row

__all__ = ["TAG", "VARIABLES", "as_json", "grafana"]

Json = dict[str, Any]

SCHEMA = 42
TAG = "aip-cluster"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# In order; the selector that narrows each down, and whether `All` may match a label that is not there.
VARIABLES = (
    ("cluster", "aip_build_info", True),
    ("namespace", 'aip_build_info{cluster=~"$cluster"}', True),
    ("job", 'aip_build_info{cluster=~"$cluster",namespace=~"$namespace"}', False),
    ("instance", 'aip_build_info{cluster=~"$cluster",namespace=~"$namespace",job=~"$job"}', True),
)
ROW_HEIGHT = 1


def as_json(dashboard: Dashboard) -> str:
    """The text of the dashboard's file."""
    return json.dumps(grafana(dashboard), indent=1, ensure_ascii=False) + "\n"


def grafana(dashboard: Dashboard) -> Json:
    """The dashboard as Grafana's model has it."""
    link = {
        "type": "dashboards",
        "title": "AIP Cluster",
        "tooltip": "The other dashboards",
        "icon": "external link",
        "url": "",
        "tags": [TAG],
        "targetBlank": False,
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
    }
    return {
        "uid": f"aip-{dashboard.name}",
        "title": f"AIP Cluster / {dashboard.title}",
        "description": dashboard.description,
        "tags": [TAG],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [link],
        "annotations": {"list": []},
        "templating": {"list": [_source(), *(_variable(*variable) for variable in VARIABLES)]},
        "panels": _panels(dashboard.rows),
    }


def _source() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}


def _variable(name: str, series: str, may_be_missing: bool) -> Json:
    query = f"label_values({series}, {name})"
    variable = {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }
    return variable | ({"allValue": ".*"} if may_be_missing else {})


def _panels(rows: tuple[Row, ...]) -> list[Json]:
    panels: list[Json] = []
    top = 0
    for row in rows:
        place = {"x": 0, "y": top, "w": 24, "h": ROW_HEIGHT}
        panels.append({"id": len(panels) + 1, "type": "row", "title": row.title, "gridPos": place, "panels": []})
        top += ROW_HEIGHT
        bottom = top
        for panel, column, line in row.places():
            place = {"x": column, "y": top + line, "w": panel.width, "h": panel.height}
            panels.append({"id": len(panels) + 1, **_panel(panel), "gridPos": place})
            bottom = max(bottom, top + line + panel.height)
        top = bottom
    return panels


def _panel(panel: Panel) -> Json:
    at_a_time = panel.kind is not Kind.LINES
    targets = [_target(query, chr(ord("A") + i), panel.kind) for i, query in enumerate(panel.queries)]
    defaults: Json = {"unit": panel.unit.value, "min": 0}
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.steps:
        (_, first), *rest = panel.steps
        steps: list[Json] = [{"color": first, "value": None}, *({"color": c, "value": v} for v, c in rest)]
    else:
        steps = [{"color": "text" if at_a_time else "green", "value": None}]
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    defaults["color"] = {"mode": "thresholds" if at_a_time else "palette-classic"}
    if panel.kind is Kind.LINES:
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 5,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.steps else "off"},
        }
    shown: Json = {
        "type": panel.kind.value,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel.kind),
    }
    if panel.kind is Kind.TABLE:
        names = {f"Value #{target['refId']}": target["legendFormat"] for target in targets}
        shown["transformations"] = [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": names}},
        ]
    return shown


def _target(query: Query, name: str, kind: Kind) -> Json:
    target: Json = {
        "refId": name,
        "datasource": SOURCE,
        "expr": query.promql,
        "legendFormat": query.legend,
        "editorMode": "code",
    }
    if kind is Kind.LINES:
        return target | {"range": True, "exemplar": query.exemplars}
    return target | {"instant": True, "range": False} | ({"format": "table"} if kind is Kind.TABLE else {})


def _options(kind: Kind) -> Json:
    if kind is Kind.LINES:
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if kind is Kind.NUMBER:
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "textMode": "auto",
        }
    return {"showHeader": True, "cellHeight": "sm"}
