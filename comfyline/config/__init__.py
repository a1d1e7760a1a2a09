"""Profile, environment and secrets, read into settings."""
