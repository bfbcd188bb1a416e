-- Give a task name to a session, unless another session has it.
-- KEYS  1 task
-- ARGV  1 session id   2 session id that may be replaced ('' = none)   3 life, ms
-- reply {''} if claimed, else {session id that has the name, how long ago it claimed it in ms}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local claim = redis.call('HMGET', KEYS[1], 'session_id', 'claimed_ms')
if claim[1] and claim[1] ~= ARGV[1] and claim[1] ~= ARGV[2] then return {claim[1], now - tonumber(claim[2])} end
redis.call('HSET', KEYS[1], 'session_id', ARGV[1], 'claimed_ms', string.format('%d', now))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {''}
