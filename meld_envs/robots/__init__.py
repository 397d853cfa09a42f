"""Robots: published kinematics, and what turns actions into controls."""
