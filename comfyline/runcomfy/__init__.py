"""RunComfy over HTTP: one method a call, what each answer proves, and when to ask again."""

import logging

# At INFO httpx logs whole URLs, and the signature in a presigned one is a secret.
logging.getLogger("httpx").setLevel(logging.WARNING)
