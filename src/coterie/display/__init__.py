"""Messages and progress for people: at a terminal, in a pipe, in a notebook."""
