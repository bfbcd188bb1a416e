-- Ask to be told of the end of a session, or of every event of it.
-- KEYS  1 session
-- ARGV  1 node id   2 field of those to be told: 'watchers' (the end) or 'followers' (every event)
-- reply its state ('' = no such session); the node is noted unless it has ended
-- uses: _terminal
local there = redis.call('HMGET', KEYS[1], 'deadline_ms', 'state', ARGV[2])
if not there[1] then return '' end
local state = there[2] or 'created'
if is_terminal(state) then return state end
local told = there[3] or '\n'
if not string.find(told, '\n' .. ARGV[1] .. '\n', 1, true) then
  told = told .. ARGV[1] .. '\n'
  -- Where memory is short: after a write that takes none, and here removes nothing, Redis lets a script go on
  -- (docs/REDIS.md). Most calls need no second one.
  local noted = redis.pcall('HSET', KEYS[1], 'more', '1', ARGV[2], told)
  if type(noted) == 'table' and noted.err then
    redis.call('HDEL', KEYS[1], '')
    redis.call('HSET', KEYS[1], 'more', '1', ARGV[2], told)
  end
end
return state
