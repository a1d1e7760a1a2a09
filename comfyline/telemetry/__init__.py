"""Metrics, traces and JSON logs of a run: off unless somebody asks for them."""
