"""The agent-agnostic runner: meta-trains and meta-tests any agent on any family, and reports."""
