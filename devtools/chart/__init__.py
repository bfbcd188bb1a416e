"""The chart as Helm sees it: rendered by Helm's own code, its schema kept in step with the nodes' settings."""
