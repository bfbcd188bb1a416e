-- Take what is due now, for a while in which nobody else takes it: whoever took it may die.
-- KEYS  1 due
-- ARGV  1 how many at most   2 for how long, ms
-- reply member, when it is due again, ms, ...
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local taken = {}
local again = string.format('%.0f', now + ARGV[2])
-- First, since it takes no memory: after it the rest is written although memory is short (docs/REDIS.md).
if #members > 0 then redis.call('ZREM', KEYS[1], '') end
for i, member in ipairs(members) do
  redis.call('ZADD', KEYS[1], again, member)
  taken[2 * i - 1] = member
  taken[2 * i] = again
end
return taken
