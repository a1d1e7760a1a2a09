"""What is right and wrong with a job, its media and its outputs: pure, from what is known."""
