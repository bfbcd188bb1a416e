-- Take a task name back from a session that never started; the session that had it before gets it again.
-- KEYS  1 task
-- ARGV  1 token of the claim   2 session id that had the name before ('' = none)
-- reply 1 if the claim stood, else 0
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('HSET', KEYS[1], 'session_id', ARGV[2]) end
return 1
