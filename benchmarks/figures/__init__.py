"""Programs that draw one figure each, from finished runs."""
