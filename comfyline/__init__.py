"""Content pipelines on RunComfy: never pays twice, never loses a result that was paid for."""

__version__ = "0.1.0"
