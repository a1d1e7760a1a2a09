"""The local stack: a Prefect server, S3-compatible storage and the sandbox, as three processes.

`stack` is the way in: `ensure`, `stop`, `inspect` and `addresses`. Every server listens on
127.0.0.1 alone, outlives the command that started it, and keeps all of its state in one home.
"""
