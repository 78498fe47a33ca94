"""Pages of the site that are read from the code: one module each, with `page() -> str`."""
