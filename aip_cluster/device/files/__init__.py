"""Files between a device and a node, in the wire form of AIP.md section 6: a start, chunks, an end, an answer."""
