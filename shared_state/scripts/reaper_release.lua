-- Stop being the node that settles dead nodes, if this one still is.
-- KEYS  1 reaper
-- ARGV  1 node id
-- reply 1 if it was, else 0
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
