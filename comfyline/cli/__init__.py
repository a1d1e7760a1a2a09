"""The command line: words for people, exit codes for programs. Nothing imports this package."""
