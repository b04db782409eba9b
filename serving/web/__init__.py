"""The HTTP interface: operations, bodies, refusals; knows no Ray."""
