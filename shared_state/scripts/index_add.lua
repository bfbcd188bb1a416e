-- Add members to an index in order of time, and drop what is over its bound.
-- KEYS  1 index
-- ARGV  1 bound   2 life, ms   3.. member, ...
-- reply how many were added
local scored = {}
for i = 3, #ARGV do
  scored[#scored + 1] = 0
  scored[#scored + 1] = ARGV[i]
end
local added = redis.call('ZADD', KEYS[1], unpack(scored))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[1]))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return added
