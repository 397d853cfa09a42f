"""What a robot's file must hold, measured: the parts of ``python -m hardware_bridge calibrate``."""
