"""Allocators: how much of every group stays."""
