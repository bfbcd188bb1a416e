-- Ask to be told of the end of a session.
-- KEYS  1 session
-- ARGV  1 node id
-- reply its state ('' = no such session); the node is noted unless it has ended
local there = redis.call('HMGET', KEYS[1], 'state', 'watchers')
local state = there[1]
if not state then return '' end
if state == 'completed' or state == 'failed' or state == 'cancelled' or state == 'timed_out' then return state end
local watchers = there[2] or '\n'
if not string.find(watchers, '\n' .. ARGV[1] .. '\n', 1, true) then
  redis.call('HSET', KEYS[1], 'watchers', watchers .. ARGV[1] .. '\n')
end
return state
