"""RunComfy over HTTP: one method a call, what each answer proves, and when to ask again."""
