"""A real WidowX on a Dynamixel bus, its emulated twin, and everything between them and an agent."""
