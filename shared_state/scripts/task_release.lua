-- Take a task name back from a session that never started; the session that had it before gets it again. Safe to repeat.
-- KEYS  1 task
-- ARGV  1 token of the claim   2 session id that had the name before ('' = none)
-- reply 1 if the claim stood, else 0
local token, life = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) (%d+) ')
if token ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], token .. ' ' .. life .. ' ' .. ARGV[2], 'KEEPTTL')
end
return 1
