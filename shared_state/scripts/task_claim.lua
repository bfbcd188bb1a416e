-- Give a task name to a session, unless another claim has it. Safe to repeat with the same token.
-- KEYS  1 task
-- ARGV  1 session id   2 token of the claim that may be replaced ('' = none)   3 life, ms   4 token of this claim
-- reply {''} if claimed, else {session id that has the name, how long ago it was claimed in ms, token of that claim}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local claim = redis.call('HMGET', KEYS[1], 'session_id', 'claimed_ms', 'token')
if claim[1] and claim[3] ~= ARGV[4] and claim[3] ~= ARGV[2] then
  return {claim[1], now - tonumber(claim[2]), claim[3]}
end
redis.call('HSET', KEYS[1], 'session_id', ARGV[1], 'claimed_ms', string.format('%d', now), 'token', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {''}
