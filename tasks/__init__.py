"""The six Prefect tasks, one file a stage: policy and a thin body each."""
