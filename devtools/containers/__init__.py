"""`scripts/containers`: the image and compose.yaml, built and run by a container engine of its own."""
