"""What races: one side a module, each run as a process of its own (`benchmarks.race`)."""
