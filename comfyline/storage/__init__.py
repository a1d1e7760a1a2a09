"""Files in and out: a put is atomic or did not happen, and presigned URLs are never kept."""
