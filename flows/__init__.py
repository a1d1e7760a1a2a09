"""The Prefect flows: order and concurrency only; what a stage does lives in `tasks`."""
