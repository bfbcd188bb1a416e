"""`scripts/dashboards`: Grafana's dashboards from one small source, and the proof that their queries answer.

`model`: what a dashboard consists of, `grafana`: the JSON that Grafana takes. `boards`: one file a dashboard, where a
panel is changed and nowhere else. `prometheus`: a real Prometheus, `lab`: a real cluster under load for it to scrape,
`answers`: every query put to it.
"""
