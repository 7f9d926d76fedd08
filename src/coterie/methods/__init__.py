"""Methods as presets: each a function that composes settings."""
