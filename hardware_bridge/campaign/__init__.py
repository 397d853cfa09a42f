"""The fault campaign: every fault of the list done to the twin, and what the bridge made of it."""
