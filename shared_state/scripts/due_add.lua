-- Have something looked at when it is due; of several times the latest given counts.
-- KEYS  1 due
-- ARGV  1 member   2 in how many ms   3 life of the set beyond that, ms
-- reply when it is due, ms
local time = redis.call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
-- First, since it takes no memory: after it the rest is written although memory is short (docs/REDIS.md).
redis.call('ZREM', KEYS[1], '')
redis.call('ZADD', KEYS[1], string.format('%.0f', due), ARGV[1])
local life = ARGV[2] + ARGV[3]
if redis.call('PTTL', KEYS[1]) < life then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', life)) end
return string.format('%.0f', due)
