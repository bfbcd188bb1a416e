"""The Lua scripts: one operation each; the head of a file names its KEYS, ARGV and reply."""
