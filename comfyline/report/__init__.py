"""What is left for people to read after a run: summary, sidecars, thumbnails and the gallery."""
