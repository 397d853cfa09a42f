"""Agents that learn to learn: MELD, SLAC, references, and the interface that any agent may meet."""
