"""YAML as people write it: where each value stands, and what is wrong with it in words."""
