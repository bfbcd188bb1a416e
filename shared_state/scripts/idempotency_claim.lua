-- Begin, or go on with, the one attempt that a request under a key stands for. Safe to repeat by the same holder.
-- KEYS  1 claim
-- ARGV  1 fingerprint of the request   2 holder   3 how long the holder may work on it, ms   4 life of the claim, ms   5 attempt (JSON) of a first claim
-- reply {'mine', attempt}; {'done', status, body}; {'busy', attempt, ms until it may be taken over}; {'other'} another request has the key
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local there = redis.call('HMGET', KEYS[1], 'request', 'holder', 'until_ms', 'attempt', 'status', 'body')
if not there[1] then
  redis.call('HSET', KEYS[1], 'request', ARGV[1], 'attempt', ARGV[5])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  there[4] = ARGV[5]
elseif there[1] ~= ARGV[1] then
  return {'other'}
elseif there[5] then
  return {'done', there[5], there[6]}
elseif there[2] ~= ARGV[2] and tonumber(there[3]) > now then
  return {'busy', there[4], tonumber(there[3]) - now}
end
redis.call('HSET', KEYS[1], 'holder', ARGV[2], 'until_ms', string.format('%d', now + ARGV[3]))
return {'mine', there[4]}
