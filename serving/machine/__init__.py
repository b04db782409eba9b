"""Ports, processes, HAProxy and the supervisor: what a server needs of its machine."""
