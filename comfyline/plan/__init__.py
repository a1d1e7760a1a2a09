"""From a pipeline file to what is left to make: its graph, its jobs, what is there of them."""
