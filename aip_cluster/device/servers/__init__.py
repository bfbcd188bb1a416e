"""The MCP servers that a device takes its tools from: how they are configured, reached, watched and brought back."""
