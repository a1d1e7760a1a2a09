"""What a media file is by its content: its type, its size and length, whether it is whole."""
