"""One file per family of tasks, its scripted expert included."""
