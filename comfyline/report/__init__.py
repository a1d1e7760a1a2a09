"""What is left for people to read after a run: summary, gallery, index and contact sheet."""
