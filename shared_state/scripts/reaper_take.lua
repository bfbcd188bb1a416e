-- Become the one node that settles dead nodes, unless another is.
-- KEYS  1 reaper
-- ARGV  1 node id   2 for how long, ms
-- reply 1 if it is this node now, else 0
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
-- Removes nothing, and takes no memory: after it the rest is written although memory is short (docs/REDIS.md).
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
