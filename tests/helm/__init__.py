"""The chart, rendered by Helm's own code, and the image that it runs."""
