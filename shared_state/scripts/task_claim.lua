-- Give a task name to a session in place of whoever has it, if that is still who the caller found. Safe to repeat.
-- KEYS  1 task
-- ARGV  1 the claim that was found ('' = none)   2 the claim   3 its life, ms
-- reply the claim that stands
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return ARGV[2]
