"""The emulated robot: servos that are true to their registers, on a serial line that is real."""
