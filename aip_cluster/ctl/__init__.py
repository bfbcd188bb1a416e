"""The operator's command line: what a container, an orchestrator or a person asks of running nodes."""
