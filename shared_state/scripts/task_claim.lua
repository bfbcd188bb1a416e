-- Give a task name to a session, unless another session has it.
-- KEYS  1 task
-- ARGV  1 session id   2 session id that may be replaced ('' = none)   3 life, ms
-- reply '' if claimed, else the session id that has the name
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and holder ~= ARGV[2] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return ''
