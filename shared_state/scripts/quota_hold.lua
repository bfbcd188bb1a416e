-- Count the bytes of something under a quota, if they fit; of what is counted already, its new size. Safe to repeat.
-- KEYS  1 id → when it is counted no more, ms   2 'id:<id>' → '<bytes> <credential>'; 'all', 'of:<credential>' → bytes
-- ARGV  1 id   2 bytes   3 for how long, ms   4 credential   5 bound of all   6 bound of the credential
-- reply 0 counted; 1 over the bound of all; 2 over that of the credential: nothing changed but what was over by now
-- uses: _quota
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- What is left of more than these goes with the next calls; until then it counts.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)) do forget(id) end
local held = string.match(redis.call('HGET', KEYS[2], 'id:' .. ARGV[1]) or '', '^(%d+) ') or 0
local more = ARGV[2] - held
if more > 0 then
  local sums = redis.call('HMGET', KEYS[2], 'all', 'of:' .. ARGV[4])
  if (sums[1] or 0) + more > tonumber(ARGV[5]) then return 1 end
  if (sums[2] or 0) + more > tonumber(ARGV[6]) then return 2 end
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3]), ARGV[1])
redis.call('HSET', KEYS[2], 'id:' .. ARGV[1], ARGV[2] .. ' ' .. ARGV[4])
count('all', string.format('%.0f', more))
count('of:' .. ARGV[4], string.format('%.0f', more))
-- The two live equally long, or one would count what the other has forgotten.
local life = math.max(redis.call('PTTL', KEYS[1]), redis.call('PTTL', KEYS[2]), ARGV[3] + 60000)
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', life))
redis.call('PEXPIRE', KEYS[2], string.format('%.0f', life))
return 0
