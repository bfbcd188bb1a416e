-- End a registration that has been away for longer than it may. Safe to repeat.
-- KEYS  1 registration   2 active sessions
-- reply {1, session under way, ...} its absence is over; {3, session under way, ...} nobody knows it any more;
--       {0} it is held; {2, until when, ms} it may still come back
local there = redis.call('HMGET', KEYS[1], 'connection_id', 'away_until_ms')
if there[1] then return {0} end
local outcome = 3
if there[2] then
  local time = redis.call('TIME')
  if time[1] * 1000 + math.floor(time[2] / 1000) < tonumber(there[2]) then return {2, there[2]} end
  redis.call('DEL', KEYS[1])
  outcome = 1
end
return {outcome, unpack(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(9007199254740991', 'LIMIT', 0, 4096))}
