"""Redis, as far as nodes share it. Imported only where a URL asks for it."""
