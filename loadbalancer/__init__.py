"""The nginx in front of the nodes: one template, and `loadbalancer.render`, which fills it in."""
