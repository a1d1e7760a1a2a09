"""From YAML to jobs: pure but for reading files; every mistake located, all of them at once."""
