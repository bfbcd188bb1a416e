-- Put a client on the list of a node, before it is registered there, and keep the list for a while.
-- KEYS  1 the node's clients
-- ARGV  1 client id   2 since when, ms   3 life of the list, ms
-- reply 1 if it was not on the list
-- First, since it takes no memory: after it the rest is written although memory is short (docs/REDIS.md).
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local added = redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return added
