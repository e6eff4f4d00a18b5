"""The MoE lab: what experts do and cost, as pure parts; who loads, reads and shows is elsewhere."""
